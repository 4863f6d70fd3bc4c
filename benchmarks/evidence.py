"""How often verdicts are right: coverage, type I error and power, by simulation of known models.

    python -m benchmarks.evidence

Writes benchmarks/results/evidence.md, which docs/evidence.md explains, and evidence.json. Draws
tables of paired answers of models whose true rates are set, and judges them with the package's own
interval and verdict. Takes about a minute.
"""

from typing import Any

import numpy as np

from benchmarks.records import RESULTS, format_records
from swaplib.evaluation.intervals import CELLS, find_newcombe
from swaplib.evaluation.rows_needed import find_rows_needed
from swaplib.evaluation.stats import BETTER, NOT_ENOUGH, NOT_WORSE, WORSE, judge
from swaplib.files import write_json, write_text

MARGIN, DRAWS, SEED = 0.05, 20_000, 42
SIZES = (50, 100, 500, 2000)
VERDICTS = (BETTER, NOT_WORSE, WORSE, NOT_ENOUGH)
# True shares of (both right, first only, second only, neither); the gap is the first model's only
# less the second's only.
MODELS = {
    "equal, rate .95, hardly differ": (0.94, 0.01, 0.01, 0.04),
    "equal, rate .60, differ in .20": (0.50, 0.10, 0.10, 0.30),
    "equal, rate .30, differ in .30": (0.15, 0.15, 0.15, 0.55),
    "worse by .02": (0.50, 0.10, 0.08, 0.32),
    "worse by the margin, .05, differ in .09": (0.80, 0.07, 0.02, 0.11),
    "worse by the margin, .05, differ in .25": (0.45, 0.15, 0.10, 0.30),
    "worse by .10": (0.50, 0.15, 0.05, 0.30),
    "worse by .20": (0.40, 0.25, 0.05, 0.30),
    "better by .10": (0.50, 0.05, 0.15, 0.30),
}
# Counts whose rows needed are computed, and then judged with so many rows.
ASKED = (
    (90, 1, 0, 9),
    (48, 0, 1, 1),
    (93, 2, 0, 5),
    (60, 5, 5, 30),
    (86, 6, 2, 6),
    (85, 1, 0, 1),
    (40, 12, 1, 47),
)
# The rule with several metrics at once: whole models that are equally good.
EQUAL = {
    "toolcall, rates .95, .90, .60": (0.95, 0.90, 0.60),
    "structured, rates .95, .50": (0.95, 0.50),
}


def draw(
    rng: np.random.Generator, shares: tuple[float, ...], n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gaps and their intervals of many tests of n rows."""
    tables = rng.multinomial(n, shares, size=DRAWS)
    low, high = find_newcombe(*tables.T)
    return (tables[:, 1] - tables[:, 2]) / n, low, high


def simulate(rng: np.random.Generator, name: str, n: int) -> dict[str, Any]:
    """How often the interval covers the true gap, and how often each verdict is given."""
    shares = MODELS[name]
    _, low, high = draw(rng, shares, n)
    true = shares[1] - shares[2]
    verdicts = [judge(pair, MARGIN) for pair in zip(low.tolist(), high.tolist(), strict=True)]
    coverage = float(np.mean((low <= true + 1e-9) & (true - 1e-9 <= high)))
    content = {"models": name, "rows": n, "coverage": coverage}
    content |= {verdict: verdicts.count(verdict) / DRAWS for verdict in VERDICTS}
    wrong = {BETTER: true >= 0, NOT_WORSE: true >= MARGIN - 1e-9, WORSE: true <= MARGIN + 1e-9}
    return content | {"wrong": sum(content[name] for name, is_wrong in wrong.items() if is_wrong)}


def simulate_power(rng: np.random.Generator, counts: tuple[int, ...]) -> dict[str, Any]:
    """How often a test with the rows that were said to be needed settles it."""
    found = find_rows_needed(dict(zip(CELLS, counts, strict=True)), MARGIN)
    n = sum(counts)
    _, low, high = draw(rng, tuple(count / n for count in counts), found.rows)
    is_settled = high < MARGIN if (counts[1] - counts[2]) / n < MARGIN else low > MARGIN
    return {
        "both, first, second, neither": ", ".join(map(str, counts)),
        "rows needed": found.rows,
        "range": f"{found.low} to {found.high}",
        "power said": found.power,
        "power found": float(is_settled.mean()),
    }


def simulate_rule(rng: np.random.Generator, name: str, n: int) -> dict[str, Any]:
    """How often the rule calls one of two equally good models worse on any of several metrics.

    The metrics are independent.
    """
    gaps = []
    for rate in EQUAL[name]:
        differ = min(rate, 1 - rate) / 2
        gaps.append(draw(rng, (rate - differ, differ, differ, 1 - rate - differ), n)[0])
    content = {"equally good models": name, "rows": n}
    for delta in (0.0, 0.02, 0.05, 0.1):
        content[f"delta={delta:g}"] = float(np.mean(np.max(gaps, axis=0) > delta + 1e-9))
    return content


def format_part(title: str, records: list[dict[str, Any]]) -> list[str]:
    """A section with its records as a Markdown table; shares with three digits."""
    table = format_records(records, (), lambda v: f"{v:.3f}" if isinstance(v, float) else str(v))
    return ["", f"## {title}", "", *table]


def main() -> None:
    """Simulate, and write both files."""
    rng = np.random.default_rng(SEED)
    verdicts = [simulate(rng, name, n) for name in MODELS for n in SIZES]
    power = [simulate_power(rng, counts) for counts in ASKED]
    rule = [simulate_rule(rng, name, n) for name in EQUAL for n in SIZES]
    about = {"margin": MARGIN, "draws": DRAWS, "seed": SEED}
    parts = {"verdicts": verdicts, "power": power, "rule": rule}
    write_json(RESULTS / "evidence.json", about | parts)
    lines = [
        f"{DRAWS:,} simulated tests a line, seed {SEED}, margin {MARGIN:g}.",
        *format_part("Verdicts", verdicts),
        *format_part("Rows needed", power),
        *format_part("FINE_TUNE=1 between equally good models", rule),
    ]
    write_text(RESULTS / "evidence.md", "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
