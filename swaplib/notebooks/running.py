"""Runs a notebook with papermill; leaves it executed, with its HTML, in the reports folder."""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from swaplib.data.traffic_rows import is_traffic
from swaplib.metrics import check_track
from swaplib.models.dataset_form import name_usual
from swaplib.notebooks.pages import write_html
from swaplib.notebooks.parameters import (
    Assignment,
    Parameters,
    name_question,
    parse_parameters,
    read_default,
    read_parameters,
)
from swaplib.settings import ROOT, Settings

STAGES = ("06_capture", "07_build", "08_distill")


def run_notebook(
    settings: Settings, notebook: Path, assignments: Sequence[Assignment], timeout_s: int
) -> tuple[Path, Path]:
    """Run a notebook.

    Args:
        settings: Where the reports folder is.
        notebook: The source; it is not changed.
        assignments: Names and values as typed on a command line.
        timeout_s: The limit of one cell, in seconds; a dead kernel ends the run at once.

    Returns:
        The paths of the executed notebook and of its HTML, named by the notebook, its track and
        what else makes it another question than by default: other models, another split.

    Raises:
        FileNotFoundError, ValueError: There is no such notebook, or a parameter does not exist or
            fit.
        RuntimeError: A cell failed; both files exist and show it, and the cell's error ends the
            message.
    """
    if not notebook.is_file():
        raise FileNotFoundError(f"no notebook at {notebook}. They are in notebooks/.")
    known = read_parameters(notebook)
    parameters = parse_parameters(known, assignments)
    words = [notebook.stem]
    track = parameters.get("track", read_default(known, "track"))
    if track is not None:
        check_track(track)  # before it names a file
        words.append(track)
    usual = name_usual(settings, parameters.get("shots", 0))
    name = "_".join(words) + name_question(known, parameters, usual)
    executed = settings.reports / f"{name}.ipynb"
    executed.parent.mkdir(parents=True, exist_ok=True)
    failure = _execute(notebook, executed, parameters, timeout_s)
    html = write_html(executed)
    if failure:
        raise RuntimeError(failure)
    return executed, html


def run_flywheel(
    settings: Settings, track: str, assignments: Sequence[Assignment], timeout_s: int
) -> list[Path]:
    """Run 06, 07 and 08 one after the other; each resumes where it was stopped.

    A `source` that is a log needs no capture: 06 is left out.

    Args:
        settings: Where the reports folder is.
        track: The track whose captured rows are trained and evaluated.
        assignments: Parameters as typed; each goes to every notebook that knows it.
        timeout_s: The limit of one cell, in seconds.

    Returns:
        The HTML of each stage; the last one is the summary.

    Raises:
        ValueError: No notebook knows a parameter, or a value does not fit. Nothing was run.
        RuntimeError: A cell failed.
    """
    sources = [ROOT / Path(text).expanduser() for name, text in assignments if name == "source"]
    stages = STAGES[1:] if any(map(is_traffic, sources)) else STAGES
    notebooks = {stage: ROOT / "notebooks" / f"{stage}.ipynb" for stage in stages}
    known = {stage: read_parameters(path) for stage, path in notebooks.items()}
    by_stage = _distribute(known, [*assignments, ("track", track)])
    for stage in stages:
        parse_parameters(known[stage], by_stage[stage])
    return [
        run_notebook(settings, notebooks[stage], by_stage[stage], timeout_s)[1] for stage in stages
    ]


def _distribute(
    known: Mapping[str, Parameters], assignments: Sequence[Assignment]
) -> dict[str, list[Assignment]]:
    """The assignments that each notebook knows; raises ValueError for one that none knows."""
    names = dict.fromkeys(name for parameters in known.values() for name in parameters)
    for name, _ in assignments:
        if name not in names:
            raise ValueError(f"unknown parameter {name!r}: the notebooks have {', '.join(names)}")
    return {
        stage: [(name, text) for name, text in assignments if name in parameters]
        for stage, parameters in known.items()
    }


def _execute(
    notebook: Path, executed: Path, parameters: dict[str, Any], timeout_s: int
) -> str | None:
    """Run a notebook to its end or its first failure; what failed in a few words, or None."""
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
        return (
            f"{notebook.name}, cell [{error.exec_count}] (see {executed}):\n"
            f"{error.ename}: {strip_ansi(error.evalue)}"
        )
    except CellTimeoutError:
        return f"a cell of {notebook.name} took longer than {timeout_s} s (--timeout-s)"
    except DeadKernelError:
        return f"the kernel of {notebook.name} died; the machine may be out of memory"
    except NoSuchKernel as error:
        raise RuntimeError(
            f"{notebook.name} asks for the Jupyter kernel {error.name!r}: run `make setup`"
        ) from None
    return None


def strip_ansi(text: str) -> str:
    """A text without terminal colour codes."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
