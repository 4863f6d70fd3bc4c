"""Runs a notebook headlessly with papermill, and leaves the executed notebook and its HTML in the reports folder.

It checks the parameters first, because papermill only warns about a name that does not exist and runs on defaults.
"""

import ast
import logging
import re
import sys
from pathlib import Path
from typing import Any

from swaplib.data.traffic_rows import is_traffic
from swaplib.files import write_text
from swaplib.metrics import check_track
from swaplib.models.names import parse_models
from swaplib.rows import SPLITS
from swaplib.settings import ROOT, Settings

STAGES = ("06_capture", "07_build", "08_distill")


def run_notebook(
    settings: Settings, notebook: Path, assignments: list[tuple[str, str]], timeout_s: int
) -> tuple[Path, Path]:
    """Run a notebook.

    Args:
        settings: Says where the reports folder is.
        notebook: The source; it is not changed.
        assignments: Names and values as typed on a command line.
        timeout_s: The limit of one cell, in seconds; a dead kernel ends the run at once.

    Returns:
        The paths of the executed notebook and of its HTML, named by the notebook, its track and what else makes it another
        question than by default: other models, another split.

    Raises:
        FileNotFoundError, ValueError: The notebook is not there, or a parameter does not exist or fit.
        RuntimeError: A cell failed; both files exist and show it, and the cell's error ends the message.
    """
    import papermill

    if not notebook.is_file():
        raise FileNotFoundError(f"no notebook at {notebook}. They lie in notebooks/.")
    known = papermill.inspect_notebook(str(notebook))
    parameters = parse_parameters(known, assignments)
    track = parameters.get(
        "track", ast.literal_eval(known["track"]["default"]) if "track" in known else None
    )
    if track is not None:
        check_track(track)  # it names the report
    name = "_".join([notebook.stem, *([track] if track else [])]) + _name_question(
        known, parameters
    )
    executed = settings.reports / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    failure = _execute(notebook, executed, parameters, timeout_s)
    html = write_html(executed)
    if failure:
        raise RuntimeError(failure)
    return executed, html


def run_flywheel(
    settings: Settings, track: str, assignments: list[tuple[str, str]], timeout_s: int
) -> list[Path]:
    """Run 06, 07 and 08 one after the other; each resumes where it was stopped.

    A `source` that is a log needs no capture: 06 is left out.

    Args:
        settings: Says where the reports folder is.
        track: The track whose captured rows are trained and evaluated.
        assignments: Parameters as typed; each goes to every notebook that knows it.
        timeout_s: The limit of one cell, in seconds.

    Returns:
        The HTML of each stage; the last one is the summary.

    Raises:
        ValueError: No notebook knows a parameter, or a value does not fit. Nothing was run.
        RuntimeError: A cell failed.
    """
    import papermill

    assignments = [*assignments, ("track", track)]
    sources = [text for name, text in assignments if name == "source"]
    is_logged = any(is_traffic(ROOT / Path(text).expanduser()) for text in sources)
    stages = STAGES[1:] if is_logged else STAGES
    notebooks = {name: ROOT / "notebooks" / f"{name}.ipynb" for name in stages}
    known = {name: papermill.inspect_notebook(str(path)) for name, path in notebooks.items()}
    if unknown := [
        name
        for name, _ in assignments
        if not any(name in of_notebook for of_notebook in known.values())
    ]:
        names = ", ".join(
            dict.fromkeys(name for of_notebook in known.values() for name in of_notebook)
        )
        raise ValueError(f"unknown parameter {unknown[0]!r}: the notebooks have {names}")
    asked = {
        stage: [(name, text) for name, text in assignments if name in known[stage]]
        for stage in stages
    }
    for stage in stages:
        parse_parameters(known[stage], asked[stage])
    return [
        run_notebook(settings, notebooks[stage], asked[stage], timeout_s)[1] for stage in stages
    ]


def _name_question(known: dict[str, Any], parameters: dict[str, Any]) -> str:
    """The end of a report's name: what makes the notebook ask another question than by default; mostly nothing.

    Examples in the prompts of all models are `-shots4`, other models `-azure+slm-full`, other values `-val` or `-native`.
    """
    defaults = {name: ast.literal_eval(known[name]["default"]) for name in known}
    changed, words = (
        {name: value for name, value in parameters.items() if defaults[name] != value},
        [],
    )
    if {"models", "shots"} & changed.keys():
        asked = defaults | parameters
        models = parse_models(asked["models"], asked["shots"])
        shots = models[0].shots
        is_usual = set(models) == set(parse_models(defaults["models"], shots))
        words.append(f"shots{shots}" if is_usual else "+".join(map(str, models)))
    if "split" in changed and changed["split"] not in SPLITS:
        raise ValueError(f"unknown split {changed['split']!r}: expected one of {', '.join(SPLITS)}")
    words += [changed["split"]] if "split" in changed else []
    words += ["native"] if changed.get("native") else []
    words += [f"fold{changed['fold']}"] if "fold" in changed else []
    return "".join(f"-{word}" for word in words)


def _execute(
    notebook: Path, executed: Path, parameters: dict[str, Any], timeout_s: int
) -> str | None:
    """Run a notebook to its end or to its first failure, and say in a few words what failed; None when nothing did."""
    import papermill
    from jupyter_client.kernelspec import NoSuchKernel
    from nbclient.exceptions import CellTimeoutError, DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.WARNING)
    try:
        papermill.execute_notebook(
            notebook,
            executed,
            parameters,
            execution_timeout=timeout_s,
            progress_bar=False,
            stdout_file=sys.stdout,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],
        )
    except PapermillExecutionError as error:
        return f"{notebook.name}, cell [{error.exec_count}] (see {executed}):\n{error.ename}: {strip_ansi(error.evalue)}"
    except CellTimeoutError:
        return f"a cell of {notebook.name} took longer than {timeout_s} s (--timeout-s)"
    except DeadKernelError:
        return f"the kernel of {notebook.name} died; the machine may be out of memory"
    except NoSuchKernel as error:
        raise RuntimeError(
            f"{notebook.name} asks for the Jupyter kernel {error.name!r}: run `make setup`"
        ) from None
    return None


def parse_parameters(known: dict[str, Any], assignments: list[tuple[str, str]]) -> dict[str, Any]:
    """Turn typed words into parameters, by the types that the notebook's parameters cell states.

    Args:
        known: What papermill.inspect_notebook found.
        assignments: Names and values as typed.

    Raises:
        ValueError: A name is not a parameter (the known ones are listed), or a value does not fit its type.
    """
    parameters = {}
    for name, text in assignments:
        if name not in known:
            raise ValueError(
                f"unknown parameter {name!r}: this notebook has {', '.join(known) or 'none'}"
            )
        default = ast.literal_eval(known[name]["default"])
        if isinstance(default, str):
            parameters[name] = text
            continue
        kind = (known[name]["inferred_type_name"] or type(default).__name__).strip()
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            value = text
        fits = type(value).__name__ in kind.replace("float", "float int") or (
            value is None and default is None
        )
        if not fits:
            raise ValueError(
                f"parameter {name}={text}: expected {kind}, for example {known[name]['default']}"
            )
        parameters[name] = value
    return parameters


def write_html(executed: Path) -> Path:
    """Render an executed notebook as one HTML file beside it, without its code but for the parameters."""
    import nbformat
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import (
        CoalesceStreamsPreprocessor,
    )  # a progress bar becomes its last line

    notebook = nbformat.read(executed, as_version=4)
    notebook.cells = _raise_headline(notebook.cells)
    for cell in (
        notebook.cells
    ):  # a report is for reading: of the code, only the parameters and the cell that failed
        is_done = cell.metadata.get("papermill", {}).get("status", "completed") == "completed"
        if is_done and not {"parameters", "injected-parameters"} & set(
            cell.metadata.get("tags", [])
        ):
            cell.metadata["transient"] = {"remove_source": cell.cell_type == "code"}
    html, _ = HTMLExporter(
        embed_images=True,
        mathjax_url="",
        require_js_url="",
        preprocessors=[CoalesceStreamsPreprocessor],
    ).from_notebook_node(notebook, {"metadata": {"name": executed.stem}})
    path = executed.with_suffix(".html")
    write_text(path, html)
    return path


def _raise_headline(cells: list[Any]) -> list[Any]:
    """The cells with what the one with the tag `headline` shows right below the title; what it prints stays where it is."""
    from nbformat.v4 import new_code_cell, new_markdown_cell

    where = next(
        (i for i, cell in enumerate(cells) if "headline" in cell.metadata.get("tags", [])), None
    )
    shown = (
        [out for out in cells[where].get("outputs", []) if out.output_type != "stream"]
        if where
        else []
    )
    if not shown or any(out.output_type == "error" for out in shown):
        return cells
    cells[where].outputs = [out for out in cells[where].outputs if out.output_type == "stream"]
    for out in shown:
        if "execution_count" in out:
            out.execution_count = None  # no number beside it
    raised = new_code_cell(outputs=shown)
    title, _, rest = cells[0].source.partition("\n")
    return [new_markdown_cell(title), raised, new_markdown_cell(rest.strip()), *cells[1:]]


def strip_ansi(text: str) -> str:
    """A text without terminal colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
