"""09's box, tables and figure. It computes nothing: every number comes from the route's file."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from swaplib.formats.evidence import Pair
from swaplib.formats.router import Bill, CurvePoint, Point, RouterFile, SplitReport
from swaplib.report.headlines import show_pairs
from swaplib.report.route_words import describe_route, make_route_head, say_policy
from swaplib.report.styles import format_rate, make_box, style, style_texts
from swaplib.routing.replay import Replay
from swaplib.routing.route_file import Route, read_policy

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

CURVES = {"confidence": ("#56B4E9", "--"), "both": ("#009E73", "-")}
ENDS = {
    "always hosted": ("s", "#0072B2"),
    "always the SLM": ("o", "#E69F00"),
    "oracle": ("*", "#CC79A7"),
}


def show_route(route: RouterFile) -> "HTML":
    """How much can stay local, in a box."""
    return make_box(make_route_head(route), describe_route(route))


def show_points(route: RouterFile, split: str = "test") -> "Styler":
    """Every way to route on a split: what val chose of each kind, and the ends."""
    report = route["test"] if split == "test" else route["val"]
    ways: dict[str, Point] = {**report["ends"], "validators": report["validators"]}
    ways |= {kind: point for kind, point in report["points"].items() if kind != "validators"}
    records = [
        _describe_point(name, point, name == route["chosen"]) for name, point in ways.items()
    ]
    return style(pd.DataFrame(records), f"{split}, {report['n_rows']} rows")


def _describe_point(name: str, point: Point, is_chosen: bool) -> dict[str, Any]:
    policy = point["policy"]
    bill = point["bill"]
    return {
        "way": f"{name}{' (chosen)' if is_chosen else ''}",
        "stays local with": say_policy(policy) if policy else "",
        "local": f"{point['accepted']} ({point['coverage']:.0%})",
        "right": f"{point['right']} ({point['rate']:.2f})",
        "accepted but wrong": point["accepted_wrong"],
        "lost, gained": f"{point['lost']}, {point['gained']}",
        "hosted calls": bill["hosted_calls"],
        "hosted tokens": _format_tokens(bill),
        "USD for 1,000": _format_usd(bill["usd_per_1000"]),
        "USD for 1,000 right": _format_usd(_take_1000(bill["usd_per_right"])),
    }


def _format_tokens(bill: Bill) -> str:
    n_prompt, n_answer = bill["prompt_tokens"], bill["completion_tokens"]
    return "" if n_prompt is None or n_answer is None else f"{n_prompt + n_answer:,}"


def _take_1000(usd: float | None) -> float | None:
    return None if usd is None else 1000 * usd


def _format_usd(usd: float | None) -> str:
    return "" if usd is None else f"{usd:,.3f}"


def show_route_evidence(route: RouterFile) -> "Styler":
    """How sure it is: always the hosted LLM against routed, on test."""
    if not route["evidence"]:
        return style(pd.DataFrame([{"evidence": "none: val has chosen no way to route"}]))
    pair: Pair = {"first": "always hosted", "second": "routed", "pairs": route["evidence"]}
    return show_pairs([pair], route["target"])


def show_refused(route: RouterFile) -> "Styler":
    """What refused the rows of test first, and what both models had on them."""
    records = [
        {
            "refused by": found["validator"],
            "rows": found["rows"],
            "SLM right all the same": found["slm_right"],
            "hosted LLM right": found["hosted_right"],
            "for example": found["example"],
        }
        for found in route["refused_by"]
    ]
    return style(pd.DataFrame(records or [{"refused by": _say_none(route)}]))


def _say_none(route: RouterFile) -> str:
    """Why there is nothing to show of what was refused."""
    return "no row was refused" if route["policy"] else "there is no route"


def show_refused_groups(route: RouterFile, most: int = 10) -> "Styler":
    """The groups of tools whose rows were refused most often."""
    records = [
        {"group of tools": g["group"], "rows": g["rows"], "refused": g["refused"]}
        for g in route["refused_groups"][:most]
    ]
    caption = f"{len(records)} of {len(route['refused_groups'])} groups with refused rows"
    none = [{"group of tools": _say_none(route)}]
    return style(pd.DataFrame(records or none), caption if records else "")


def show_passed(replay: Replay, route: RouterFile, n: int = 5) -> "Styler":
    """Wrong answers that were accepted, to read; first those that the hosted LLM has right."""
    columns = ["row", "prompt", "gold", "the SLM, accepted", "the hosted LLM"]
    passed: list[int] = []
    if route["policy"]:
        accepted = replay.accept(read_policy(route["policy"]))
        wrong = [int(i) for i in (accepted & ~replay.slm_right).nonzero()[0]]
        passed = sorted(wrong, key=lambda i: (not replay.hosted_right[i], i))
    compared = replay.compared
    records = []
    for i in passed[:n]:
        slm, hosted = (compared.ledgers[m][i] for m in (replay.model, replay.reference))
        row = compared.rows[slm.index]
        outputs = (slm.generation.output, hosted.generation.output)
        records.append((slm.index, row.prompt, row.completion, *outputs))
    caption = f"{len(records)} of {len(passed)} wrong answers that were accepted"
    return style_texts(pd.DataFrame(records, columns=columns, dtype=object), caption)


def show_audit(audit: Mapping[str, Any] | None, route: Route | None) -> "Styler":
    """What `swap serve --audit` has counted, beside val; `route` is the one that is chosen now."""
    if audit is None or route is None:
        return style(pd.DataFrame([{"audit": "nobody has audited a route of this track yet"}]))
    is_known = audit["rate"] is not None
    of_val = audit["val_interval"]
    record = {
        "of": "this route" if audit["route_sha256"] == route.key else "an earlier route",
        "since": audit["since"],
        "both models agree": (
            f"{format_rate(audit['rate'], audit['interval'])} of {audit['n']}" if is_known else ""
        ),
        "on val": f"[{of_val[0]:.2f}, {of_val[1]:.2f}]" if of_val else "",
        "drifting": "yes: run 01 to 09 with new rows" if audit["is_drifting"] else "no",
        "counted": ", ".join(f"{name} {n}" for name, n in audit["outcomes"].items() if n),
    }
    return style(pd.DataFrame([record]))


def plot_route(route: RouterFile) -> "Figure":
    """Right answers against the share that stays local, for val and test; also against cost."""
    import matplotlib.pyplot as plt

    priced = route["test"]["ends"]["always hosted"]["bill"]["usd_per_1000"] is not None
    is_priced = (
        priced and route["test"]["ends"]["always the SLM"]["bill"]["usd_per_1000"] is not None
    )
    n = 3 if is_priced else 2
    figure, axes = plt.subplots(1, n, figsize=(3.4 * n, 3.6), layout="constrained", sharey=True)
    for panel, split in zip(axes, ("val", "test"), strict=False):
        report = route["val"] if split == "val" else route["test"]
        _draw_panel(panel, route, report, "coverage")
        title = "val, where it was chosen" if split == "val" else "test"
        panel.set_title(f"{title}, {report['n_rows']} rows", loc="left", fontsize=10)
        panel.set_xlabel("share that stays local")
    if is_priced:
        _draw_panel(axes[2], route, route["test"], "usd_per_1000")
        axes[2].set_title("test, against cost", loc="left", fontsize=10)
        axes[2].set_xlabel("US dollars for 1,000 requests")
    axes[0].set_ylabel("share of right answers")
    axes[0].set_ylim(0, axes[0].get_ylim()[1] * 1.05)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    plt.close(figure)
    return figure


def _draw_panel(axes: "Axes", route: RouterFile, report: SplitReport, key: str) -> None:
    """The curves of both kinds, the ends, and what was chosen."""
    signal = (route["policy"] and route["policy"]["signal"]) or "mean_logprob"
    for kind, (colour, line) in CURVES.items():
        if points := report["curves"].get(f"{kind}, {signal}"):
            label = {"confidence": f"{signal} alone", "both": f"validators and {signal}"}[kind]
            axes.plot(*_read_curve(points, key), line, color=colour, linewidth=1.8, label=label)
    hosted = report["ends"]["always hosted"]["rate"]
    axes.axhline(hosted, color="#0072B2", linewidth=0.8, linestyle=":")
    for name, (marker, colour) in ENDS.items():
        _mark(axes, report["ends"][name], key, marker, colour, name)
    _mark(axes, report["validators"], key, "D", "#D55E00", "validators alone")
    if route["chosen"]:
        chosen = report["points"][route["chosen"]]
        _mark(axes, chosen, key, "o", "none", "chosen on val", size=160, edge="#000000")
    axes.spines[["top", "right"]].set_visible(False)


def _read_curve(points: list[CurvePoint], key: str) -> tuple[list[float], list[float]]:
    values: list[Mapping[str, Any]] = [dict(point) for point in points]
    return [value[key] for value in values], [value["rate"] for value in values]


def _mark(
    axes: "Axes",
    point: Point,
    key: str,
    marker: str,
    colour: str,
    label: str,
    size: int = 50,
    edge: str = "face",
) -> None:
    x = point["coverage"] if key == "coverage" else point["bill"]["usd_per_1000"]
    if x is not None:
        axes.scatter(
            [x],
            [point["rate"]],
            size,
            color=colour,
            marker=marker,
            edgecolors=edge,
            zorder=3,
            label=label,
            linewidths=1.6,
        )
