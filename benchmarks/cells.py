"""What an agent's code costs behind each set of walls: its process's start, a cell, a tool call.

    python -m benchmarks.cells

Writes benchmarks/results/cells.json and a Markdown table beside it. It uses what every version of
Sandbox has, so that it can be run on an older checkout, too (`walls` is `as it was` there).
"""

import inspect
import statistics
import time
from typing import Any

from benchmarks.records import write_table
from swaplib.agents.sandbox import session

STARTS, CELLS, CALLS = 15, 300, 100
FIRST, CELL = "area = circle_area(radius=1)\nprint(area)", "area = area + 1\nprint(area)"
MANY_CALLS = f"for i in range({CALLS}):\n    circle_area(radius=i)"


def list_sandboxes() -> dict[str, dict[str, Any]]:
    """By name, the options of each Sandbox that is measured."""
    if "try_walls" not in inspect.signature(session.Sandbox).parameters:
        return {"as it was": {}}
    found = {
        "namespaces and seccomp": ("namespaces", "seccomp"),
        "user namespaces and seccomp": ("user namespaces", "seccomp"),
    }
    found |= {"Landlock and seccomp": ("landlock", "seccomp"), "none": ()}
    return {name: {"try_walls": walls, "allow_unwalled": True} for name, walls in found.items()}


def measure(how: dict[str, Any]) -> dict[str, float]:
    """Medians in ms: process and first cell, a further cell, one tool call."""
    times: dict[str, list[float]] = {"process and first cell": [], "cell": [], "tool call": []}

    def run(name: str, made: session.Sandbox, code: str, parts: int = 1) -> None:
        start = time.perf_counter()
        error = made.run(code).error
        if error:
            raise RuntimeError(error)
        times[name].append((time.perf_counter() - start) * 1000 / parts)

    for _ in range(STARTS):
        made = session.Sandbox(["circle_area"], **how)
        run("process and first cell", made, FIRST)
        for _ in range(CELLS // STARTS):
            run("cell", made, CELL)
        run("tool call", made, MANY_CALLS, CALLS)
        made.close()
    return {f"{name} (ms)": round(statistics.median(values), 3) for name, values in times.items()}


def main() -> None:
    """Measure, print, and write the record."""
    records = [{"walls": name, **measure(how)} for name, how in list_sandboxes().items()]
    note = f"Medians: {STARTS} processes, {CELLS} cells, {STARTS * CALLS} calls."
    write_table("cells", records, note)


if __name__ == "__main__":
    main()
