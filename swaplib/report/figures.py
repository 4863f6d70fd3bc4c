"""Figures for the notebooks. It computes nothing: every number comes from a file."""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swaplib.formats.caveats import FormRecord
from swaplib.formats.metrics_file import MetricsFile
from swaplib.formats.run_card import LossPoint, RunCard
from swaplib.metrics import CoreMetric, Track, core_metrics
from swaplib.models.names import ModelName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe-Ito colours and two of Tol's, which colour-blind readers can tell apart; the hatches survive
# greyscale.
STYLES = {"azure": ("#0072B2", ""), "slm": ("#E69F00", "//"), "slm_ft": ("#009E73", "..")}
VARIANT_HATCHES = {"azure": "\\\\", "slm": "", "slm_ft": ".."}
NATIVE_COLOURS = {"azure": "#00405F", "slm": "#9A5B00", "slm_ft": "#00543F"}  # of STYLES, darker
SHOTS_COLOURS = ("#CC79A7", "#56B4E9", "#D55E00", "#999999")
SHOTS_HATCHES = ("xx", "++", "oo")


def _style_of(model: str) -> tuple[str, str]:
    """Colour and hatch of a model; every name has its own.

    The hatch has a mark for each part of the name, the colour shows the last part.
    """
    name = ModelName.parse(model)
    if str(name) == name.base:
        return STYLES[name.base]
    marks = [
        ("#882255", "O", name.is_captured),
        ("#DDCC77", "*", name.is_full),
        (NATIVE_COLOURS[name.base], "||", name.is_native),
        (SHOTS_COLOURS[name.shots % 4], SHOTS_HATCHES[name.shots // 4], name.shots != 0),
    ]
    shown = [(colour, hatch) for colour, hatch, is_there in marks if is_there]
    return shown[-1][0], VARIANT_HATCHES[name.base] + "".join(hatch for _, hatch in shown)


def _list_places(n: int, position: int, n_models: int) -> list[float]:
    """Where a model's bars are at n ticks; those of all models fill 0.8 of a tick's room."""
    return [i + (position - (n_models - 1) / 2) * 0.8 / n_models for i in range(n)]


def _finish(figure: "Figure", axes: "Axes", title: str) -> "Figure":
    """Give a figure its title and open frame, and close it, so that a notebook shows it once."""
    import matplotlib.pyplot as plt

    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure


def plot_metrics(track: Track, metrics: Sequence[MetricsFile]) -> "Figure":
    """Core metrics as bars with Wilson 95% intervals, one colour and hatch for each model."""
    import matplotlib.pyplot as plt

    names = core_metrics(track)
    figure, axes = plt.subplots(figsize=(7.5, 3.5), layout="constrained")
    for position, content in enumerate(metrics):
        places = _list_places(len(names), position, len(metrics))
        _draw_rates(axes, names, content, places, 0.8 / len(metrics) * 0.92)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylim(0, 1.12)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("rate over all rows")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    return _finish(figure, axes, f"{track}, {metrics[0]['n_rows']} rows, 95% Wilson intervals")


def _draw_rates(
    axes: "Axes",
    names: Sequence[CoreMetric],
    content: MetricsFile,
    places: Sequence[float],
    width: float,
) -> None:
    """One model's bars, each with its interval and its rate."""
    model = content["run"]["model"]
    colour, hatch = _style_of(model)
    rates = [content[name] for name in names]
    ends = [content["intervals"][name] for name in names]
    # A rate of 0 or 1 is the end of its interval; rounding must not make an error bar negative.
    below = [max(0.0, rate - low) for rate, (low, _) in zip(rates, ends, strict=True)]
    above = [max(0.0, high - rate) for rate, (_, high) in zip(rates, ends, strict=True)]
    axes.bar(
        places,
        rates,
        width,
        yerr=[below, above],
        label=ModelName.parse(model).label,
        color=colour,
        hatch=hatch,
        edgecolor="white",
        error_kw={"ecolor": "#333333", "capsize": 2},
    )
    for place, rate, top in zip(places, rates, above, strict=True):
        axes.annotate(
            f"{rate:.2f}",
            (place, rate + top),
            (0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=7,
        )


def plot_reasons(diagnoses: Mapping[str, Mapping[str, Any]]) -> "Figure":
    """Why rows failed: rows for each reason that occurred, one colour and hatch for each model."""
    import matplotlib.pyplot as plt

    counts = {model: {"right": d["right"], **d["reasons"]} for model, d in diagnoses.items()}
    names = [
        name
        for name in next(iter(counts.values()))
        if any(of_model[name] for of_model in counts.values())
    ]
    height = 0.8 / len(counts)
    figure, axes = plt.subplots(
        figsize=(7.5, 1 + 0.17 * len(names) * len(counts)), layout="constrained"
    )
    for offset, (model, of_model) in enumerate(counts.items()):
        colour, hatch = _style_of(model)
        places = _list_places(len(names), offset, len(counts))
        values = [of_model[name] for name in names]
        bars = axes.barh(
            places,
            values,
            height * 0.92,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=ModelName.parse(model).label,
        )
        labels = [str(value) if value else "" for value in values]
        axes.bar_label(bars, labels, padding=3, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("rows")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    n = next(iter(diagnoses.values()))["n_rows"]
    return _finish(figure, axes, f"why rows failed, {n} rows")


def plot_form(forms: Mapping[str, FormRecord]) -> "Figure":
    """Form against skill: each model's rows right as asked, and right inside other text."""
    import matplotlib.pyplot as plt

    labels = [ModelName.parse(model).label for model in forms]
    strict = [form["strict"] for form in forms.values()]
    inside = [form["found"] - form["strict"] for form in forms.values()]
    figure, axes = plt.subplots(figsize=(7.5, 1.3 + 0.32 * len(forms)), layout="constrained")
    axes.barh(
        labels, strict, 0.7, color=[_style_of(model)[0] for model in forms], label="right as asked"
    )
    bars = axes.barh(
        labels,
        inside,
        0.7,
        left=strict,
        color="#DDDDDD",
        edgecolor="#888888",
        hatch="//",
        label="right inside",
    )
    texts = [f"{a}" + (f" + {b} inside" if b else "") for a, b in zip(strict, inside, strict=True)]
    axes.bar_label(bars, texts, padding=3, fontsize=8)
    n = next(iter(forms.values()))["n_rows"]
    axes.set_xlim(0, n * 1.12)
    axes.invert_yaxis()
    axes.set_xlabel("rows: solid right as asked, hatched right inside other text")
    return _finish(figure, axes, f"form against skill, {n} rows")


def plot_costs(volumes: Mapping[str, Any] | None) -> "Figure | None":
    """Dollars a day against rows a day, and the volume from which a machine pays.

    None without prices.
    """
    import matplotlib.pyplot as plt

    if volumes is None:
        return None
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    lines = itertools.cycle(("-", "--", "-.", ":"))
    for line, (model, usd) in zip(lines, volumes["usd_per_day"].items(), strict=False):
        axes.plot(
            volumes["rows_per_day"],
            usd,
            line,
            color=_style_of(model)[0],
            linewidth=2,
            label=ModelName.parse(model).label,
        )
    crossings = {(pay["from_rows_per_day"], pay["usd_per_day"]) for pay in volumes["pays"].values()}
    for rows, usd in crossings:
        if rows is not None:
            axes.plot([rows], [usd], "o", color="#333333")
            axes.annotate(
                f"{rows:,.0f}", (rows, usd), (-4, 6), textcoords="offset points", ha="right"
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel(f"{volumes['unit']} a day (dot: from here a machine of its own pays)")
    axes.set_ylabel("US dollars a day")
    figure.legend(loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    return _finish(figure, axes, "cost against volume")


def plot_losses(card: RunCard | None) -> "Figure | None":
    """A training's losses by step, from its run card: train as a line, validation with marks."""
    import matplotlib.pyplot as plt

    if card is None:
        return None
    figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
    axes.plot(*_split(card["losses"]), color="#56B4E9", linewidth=1, label="train, each step")
    axes.plot(*_split(card["validation"]), color="#D55E00", marker="o", label="validation")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss of completion tokens")
    axes.legend(frameon=False)
    title = f"{' and '.join(card['rows'])}, {card['rows_trained']} rows, {card['steps']} steps"
    return _finish(figure, axes, title)


def _split(points: Sequence[LossPoint]) -> tuple[list[int], list[float]]:
    """Steps and losses."""
    return [point["step"] for point in points], [point["loss"] for point in points]
