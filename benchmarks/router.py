"""How much of the recorded pair's traffic could stay local: 09 on every track, task and model.

    python -m benchmarks.router

Reads benchmarks/results/recorded/ (made by benchmarks/real_pair.py): no model is asked. Writes
router.json and router.md beside it, and the figure of docs/router.md.
"""

from collections.abc import Iterator
from typing import Any

from benchmarks.recorded_pair import list_places, open_record
from benchmarks.records import RESULTS, Record, format_records
from swaplib.files import write_json, write_text
from swaplib.formats.router import Point, RouterFile, SplitReport
from swaplib.provenance import describe_machine
from swaplib.report.route_report import plot_route
from swaplib.report.route_words import make_route_head, say_policy, say_saving
from swaplib.report.words import say_gap
from swaplib.routing.choose_route import choose_route
from swaplib.settings import ROOT

TARGET = 0.05
MODELS = ("slm", "slm-shots4", "slm-native", "slm_ft", "slm_ft-native")
TABLES = (
    ("rows of", "model", "hosted right", "SLM right", "oracle", "validators alone", "accepts"),
    (
        *("rows of", "model", "n val", "local on val", "n test", "local on test", "gap, 95%"),
        *("verdict", "accepted wrong", "lost", "gained", "saved"),
    ),
)
DRAWN = ("toolcall", "slm_ft")
FIGURE = ROOT / "docs" / "images" / "router.png"


def list_routes() -> Iterator[tuple[str, RouterFile]]:
    """Every route of the record, by the name of its track or task."""
    with open_record() as settings:
        for home, track in list_places(settings):
            name = track if home is settings else f"{home.swap_home.name} ({track})"
            for model in MODELS:
                if (home.evaluation / f"{track}_{model}_val.json").is_file():
                    yield name, choose_route(home, track, model, TARGET)


def make_record(name: str, route: RouterFile) -> Record:
    """What one route is worth, flat."""
    val, test, kind = route["val"], route["test"], route["chosen"]
    hosted = test["ends"]["always hosted"]
    record: dict[str, Any] = {
        "rows of": name,
        "model": route["model"],
        "n val": val["n_rows"],
        "n test": test["n_rows"],
        "hosted right": hosted["rate"],
        "SLM right": test["ends"]["always the SLM"]["rate"],
        "oracle": _say_rate(test["ends"]["oracle"]),
        "validators alone": _say_rate(test["validators"]),
        "chosen": kind or "none",
        "accepts": say_policy(route["policy"]) if route["policy"] else "nothing",
    }
    if kind is None:
        return record | {"verdict": route["verdict"], "said": make_route_head(route)}
    point, right = test["points"][kind], route["evidence"]["right"]
    return record | {
        "local on val": _say_rate(val["points"][kind]),
        "local on test": _say_rate(point),
        "gap, 95%": say_gap(right),
        "verdict": right["verdict"],
        "accepted wrong": point["accepted_wrong"],
        "lost": point["lost"],
        "gained": point["gained"],
        "gap recovered": route["gap_recovered"],
        "saved": say_saving(point["bill"], hosted["bill"]),
        "said": make_route_head(route),
    }


def _say_rate(point: Point) -> str:
    return f"{point['coverage']:.0%} local, {point['rate']:.2f} right"


def keep_curves(report: SplitReport) -> dict[str, list[list[float]]]:
    """The curves of a split as pairs of coverage and rate, rounded."""
    return {
        name: [[round(point["coverage"], 4), round(point["rate"], 4)] for point in points]
        for name, points in report["curves"].items()
    }


def main() -> None:
    """Write the records, the table and the figure."""
    records, curves = [], {}
    for name, route in list_routes():
        records.append(make_record(name, route))
        curves[f"{name}, {route['model']}"] = {
            "val": keep_curves(route["val"]),
            "test": keep_curves(route["test"]),
        }
        if (name, route["model"]) == DRAWN:
            plot_route(route).savefig(FIGURE, dpi=110)
    machine = describe_machine()
    about = {"machine": machine["device"], "git_commit": machine["git_commit"], "target": TARGET}
    write_json(RESULTS / "router.json", about | {"routes": records, "curves": curves})
    head = (
        "Routes of the recorded pair (real_pair.md names it): chosen on val, reported on test, "
        f"not worse than the hosted LLM by more than {TARGET:g}. No model was asked."
    )
    tables = [format_records([{k: r.get(k, "") for k in keys} for r in records]) for keys in TABLES]
    text = "\n".join([head, "", *tables[0], "", *tables[1]]) + "\n"
    write_text(RESULTS / "router.md", text)
    print(text)


if __name__ == "__main__":
    main()
