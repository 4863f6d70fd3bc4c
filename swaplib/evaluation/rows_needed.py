"""How many rows would settle a question: a search with the interval that decides.

The power of the number that is found is simulated.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swaplib.evaluation.intervals import CELLS, find_newcombe

if TYPE_CHECKING:
    import numpy as np

POWER, LEAST_POWER = 0.8, 0.75
DRAWS = 400  # tables from which the range is taken
MOST_ROWS = 1_000_000  # a search for more rows than these says None


@dataclass(frozen=True)
class RowsNeeded:
    """How many rows would settle a question, if the models keep disagreeing as they did.

    `rows`, with the `power` that simulation gives it: how often a test of so many rows would settle
    it the way that the present rates say. `low` and `high` say how well the rows so far tell that
    number: its 5th and 95th percentile under the rates' posterior, `high` None beyond a million.
    """

    rows: int
    power: float
    low: int
    high: int | None


def find_rows_needed(counts: Mapping[str, int], margin: float, seed: int = 42) -> RowsNeeded | None:
    """How many rows would settle the question by the interval that decides, with about 80% power.

    What would be settled is `worse` where the gap is above the margin, `not worse` where it is
    below.

    Args:
        counts: As count_pairs makes them.
        margin: How much worse still counts as not worse, a rate.
        seed: Of the simulation of the power and of the range.

    Returns:
        More rows than there are; None when gap and margin are equal, or a million would not do.
    """
    import numpy as np

    n, rng = sum(counts.values()), np.random.default_rng(seed)
    cells = np.array([counts[name] for name in CELLS], dtype=float)
    needed = _search_rows(cells[None] / n, margin, n + 1)[0]
    if not math.isfinite(needed):
        return None
    posterior = rng.dirichlet(cells + 0.5, size=DRAWS)  # with Jeffreys' prior
    drawn = _search_rows(posterior, margin, n + 1)
    low, high = np.percentile(drawn, (5, 95), method="nearest")
    rows, power = _raise_power(cells / n, int(needed), margin, rng)
    most = int(max(high, needed, rows)) if math.isfinite(high) else None
    return RowsNeeded(rows, power, int(min(low, needed)), most)


def _search_rows(shares: "np.ndarray", margin: float, least: int) -> "np.ndarray":
    """The fewest rows that settle each table of shares; infinite where even MOST_ROWS do not.

    Settled with 80% power: the limit that has to pass the margin is beyond it by z(0.8) standard
    errors of the gap.

    Args:
        shares: Of the four CELLS, shape (n, 4), float.
        margin: How much worse still counts as not worse.
        least: The first number of rows to try.
    """
    import numpy as np
    from scipy.stats import norm

    gap = shares[:, 1] - shares[:, 2]
    spread = norm.ppf(POWER) * np.sqrt(np.maximum(shares[:, 1] + shares[:, 2] - gap * gap, 0))

    def is_settled(rows: "np.ndarray") -> "np.ndarray":
        low, high = find_newcombe(*(shares * rows[:, None]).T)
        reach = spread / np.sqrt(rows)
        return np.where(gap < margin, high + reach < margin, low - reach > margin)

    below = np.full(len(shares), float(least - 1))
    above = np.full(len(shares), float(MOST_ROWS))
    is_found = is_settled(above)
    while (above - below > 1).any():
        middle = np.floor((below + above) / 2)
        settled = is_settled(np.maximum(middle, 1))
        below, above = np.where(settled, below, middle), np.where(settled, middle, above)
    return np.where(is_found, above, np.inf)


def _raise_power(
    shares: "np.ndarray", rows: int, margin: float, rng: "np.random.Generator"
) -> tuple[int, float]:
    """Raise a number of rows, in steps of a tenth, until 75% of simulated tests settle it.

    The normal approximation of the search promises a little too much where hardly any row tells
    the models apart.
    """
    while True:
        low, high = find_newcombe(*rng.multinomial(rows, shares, size=2000).T)
        settled = high < margin if shares[1] - shares[2] < margin else low > margin
        if (power := float(settled.mean())) >= LEAST_POWER:
            return rows, power
        rows = math.ceil(rows * 1.1)
