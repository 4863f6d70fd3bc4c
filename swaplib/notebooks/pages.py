"""An executed notebook as one HTML page: its headline first, without code but the parameters."""

from pathlib import Path
from typing import TYPE_CHECKING

from swaplib.files import write_text

if TYPE_CHECKING:
    from nbformat import NotebookNode


def write_html(executed: Path) -> Path:
    """Render an executed notebook as one HTML file beside it."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import CoalesceStreamsPreprocessor

    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = _raise_headline(notebook.cells)
    for cell in notebook.cells:
        if not _is_code_shown(cell):
            cell.metadata["transient"] = {"remove_source": cell.cell_type == "code"}
    exporter = HTMLExporter(
        embed_images=True,
        mathjax_url="",
        require_js_url="",
        preprocessors=[CoalesceStreamsPreprocessor],  # a progress bar becomes its last line
    )
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    path = executed.with_suffix(".html")
    write_text(path, html)
    return path


def _is_code_shown(cell: "NotebookNode") -> bool:
    """Whether a page for reading shows a cell's code: of the parameters, and of what failed."""
    is_done = cell.metadata.get("papermill", {}).get("status", "completed") == "completed"
    return not is_done or bool(
        {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", []))
    )


def _raise_headline(cells: "list[NotebookNode]") -> "list[NotebookNode]":
    """Show what the cell with the tag `headline` shows right below the title.

    What that cell prints stays in its place, and so does everything where it has failed.
    """
    from nbformat.v4 import new_code_cell, new_markdown_cell

    headline = next((c for c in cells if "headline" in c.metadata.get("tags", [])), None)
    if headline is None:
        return cells
    outputs = headline.get("outputs", [])
    shown = [output for output in outputs if output.output_type != "stream"]
    if not shown or any(output.output_type == "error" for output in shown):
        return cells
    headline.outputs = [output for output in outputs if output.output_type == "stream"]
    for output in shown:
        if "execution_count" in output:
            output.execution_count = None  # no number is shown beside it
    title, _, rest = cells[0].source.partition("\n")
    return [
        new_markdown_cell(title),
        new_code_cell(outputs=shown),
        new_markdown_cell(rest.strip()),
        *cells[1:],
    ]
