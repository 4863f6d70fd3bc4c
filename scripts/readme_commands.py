"""Runs the README's own commands in a folder and reports how each ended.

    python scripts/readme_commands.py FOLDER             a fresh clone, say
    python scripts/readme_commands.py FOLDER --without "make demo" --without "make test"
    python scripts/readme_commands.py FOLDER --list      what would be run, and what not

All commands of the ```bash blocks run in one shell, one after the other, as a reader types them:
an `export` holds for those that follow. A block is left out, with the reason in the report, when
`<!-- skip: reason -->` is the line above it. Writes benchmarks/results/readme_commands.md of this
checkout, and ends with 1 when a command failed.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "benchmarks" / "results" / "readme_commands.md"
BLOCK = re.compile(r"(?:^<!-- skip: (.+?) -->\n)?^```bash\n(.*?)^```$", re.M | re.S)
LEFT_OUT = "left out by --without"


@dataclass(frozen=True)
class Command:
    """A command as the README has it, and why it is not to be run, or None."""

    text: str
    skipped: str | None = None


def read_commands(page: str) -> list[Command]:
    """The commands of a page's bash blocks, in order: comments are cut, continued lines joined."""
    commands = []
    for reason, block in BLOCK.findall(page):
        for line in block.replace("\\\n", " ").splitlines():
            if text := re.sub(r"(^|\s)#.*", "", line).strip():
                commands.append(Command(re.sub(r"\s+", " ", text), reason or None))
    return commands


def run_commands(commands: list[Command], folder: Path) -> list[tuple[int, float]]:
    """Run commands in one shell.

    Args:
        commands: Those to be run; `skipped` is not looked at.
        folder: Where the shell starts.

    Returns:
        For each command its exit code and its wall time in seconds.
    """
    with tempfile.NamedTemporaryFile("r") as record:
        lines = []
        for command in commands:
            lines.append(f"printf '\\n== %s\\n' {shlex.quote(command.text)}; began=$EPOCHREALTIME")
            lines.append(f"eval {shlex.quote(command.text)} </dev/null; code=$?")
            lines.append(f'echo "$code $began $EPOCHREALTIME" >> {shlex.quote(record.name)}')
        subprocess.run(["bash", "-c", "\n".join(lines)], cwd=folder, check=False)
        ended = [line.split() for line in record.read().splitlines()]
    results = [(int(code), float(end) - float(began)) for code, began, end in ended]
    missing = len(commands) - len(results)
    return results + [(-1, 0.0)] * missing  # the shell itself has ended, as by `exit`


def format_report(commands: list[Command], results: list[tuple[int, float]], about: str) -> str:
    """The table: a line for each command, with its exit code, or why it was not run."""
    waiting = iter(results)
    lines = [
        f"The README's commands, {about}.",
        "",
        "| command | rc | seconds |",
        "| --- | --- | --- |",
    ]
    for command in commands:
        text = command.text.replace("|", "\\|")
        if command.skipped:
            lines.append(f"| `{text}` | not run: {command.skipped} | |")
        else:
            code, seconds = next(waiting)
            lines.append(f"| `{text}` | {code} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


def describe(folder: Path) -> str:
    """When and of which commit."""
    done = subprocess.run(
        ["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"run in a clone of commit {done.stdout.strip() or 'unknown'} on {day}"


def main() -> int:
    """Read, run, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a clone to run the commands in")
    parser.add_argument("--without", action="append", default=[], help="a command to leave out")
    parser.add_argument("--list", action="store_true", help="run nothing, show the commands")
    options = parser.parse_args()
    commands = read_commands((options.folder / "README.md").read_text())
    if unknown := set(options.without) - {command.text for command in commands}:
        parser.error(f"not among the README's commands: {', '.join(sorted(unknown))}")
    commands = [
        Command(c.text, LEFT_OUT if c.text in options.without else c.skipped) for c in commands
    ]
    if options.list:
        for command in commands:
            print(f"{command.skipped or 'run'}: {command.text}")
        return 0
    results = run_commands([c for c in commands if not c.skipped], options.folder)
    report = format_report(commands, results, describe(options.folder))
    REPORT.write_text(report)
    print(f"\n{report}\nwritten to {REPORT}")
    return 1 if any(code for code, _ in results) else 0


if __name__ == "__main__":
    sys.exit(main())
