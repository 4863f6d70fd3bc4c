"""The choice of a route on val: as many rows as possible, at no worse quality than the hosted LLM.

A policy is good enough where the paired interval of the gap between always-hosted and routed ends
below the target (stats.judge says better or not worse). Of those, the one that keeps most rows
local is chosen. All is chosen on val; test is read once, with what val chose.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from swaplib.evaluation.intervals import find_newcombe
from swaplib.formats.router import CurvePoint, Point
from swaplib.routing.policy import SIGNALS, Policy, Signal
from swaplib.routing.replay import Replay

if TYPE_CHECKING:
    import numpy as np

VALIDATORS, CONFIDENCE, BOTH = "validators", "confidence", "both"
KINDS = (VALIDATORS, CONFIDENCE, BOTH)


@dataclass(frozen=True)
class Sweep:
    """All thresholds of one signal, from the strictest: what each accepts.

    `thresholds` is [points]; `accepted` is [points, rows]. The first accepts no row.
    """

    policy: Policy
    thresholds: "np.ndarray"
    accepted: "np.ndarray"

    def take(self, point: int) -> Policy:
        """The policy of one point."""
        return replace(self.policy, threshold=float(self.thresholds[point]))


def sweep(replay: Replay, has_validators: bool, signal: Signal) -> Sweep:
    """Try every threshold that tells two rows apart; each is half-way between their confidences.

    The last one is the least confidence itself: nothing is known of a lower one. One that is not
    finite is below all of them.
    """
    import numpy as np

    confidence = replay.read_confidence(signal)
    known = np.unique(confidence[np.isfinite(confidence)])[::-1]
    halves = (known[:-1] + known[1:]) / 2
    thresholds = np.concatenate([known[:1] + 1e-9, halves, known[-1:]])
    accepted = confidence[None, :] >= thresholds[:, None]
    if has_validators:
        accepted &= replay.accept(Policy(True))[None, :]
    return Sweep(Policy(has_validators, signal, 0.0), thresholds, accepted)


def list_sweeps(replay: Replay) -> dict[str, list[Sweep]]:
    """The sweeps of each kind; none where the model does not say how sure it is."""
    import numpy as np

    signals = [s for s in SIGNALS if np.isfinite(replay.read_confidence(s)).any()]
    return {
        CONFIDENCE: [sweep(replay, False, signal) for signal in signals],
        BOTH: [sweep(replay, True, signal) for signal in signals],
    }


def find_good_enough(replay: Replay, accepted: "np.ndarray", target: float) -> "np.ndarray":
    """Which of several ways to route are not worse than the hosted LLM by more than the target.

    Args:
        replay: Both models' answers.
        accepted: Which rows each way keeps local, [ways, rows].
        target: A rate, so that what is better is good enough, too.

    Returns:
        One bit for each way.
    """
    import numpy as np

    hosted = np.broadcast_to(replay.hosted_right, accepted.shape)
    routed = replay.find_right(accepted)
    cells = (hosted & routed, hosted & ~routed, ~hosted & routed, ~hosted & ~routed)
    _, high = find_newcombe(*(cell.sum(axis=1) for cell in cells))
    return np.asarray(high < target)


def choose_policies(replay: Replay, target: float) -> dict[str, Policy]:
    """The best policy of each kind on val; a kind without one that is good enough has none.

    Of equal coverage, the one with more right rows.
    """
    chosen: dict[str, tuple[tuple[int, int], Policy]] = {}
    for kind, policy, point in _list_candidates(replay, target):
        rank = (point["accepted"], point["right"])
        if kind not in chosen or rank > chosen[kind][0]:
            chosen[kind] = (rank, policy)
    return {kind: chosen[kind][1] for kind in KINDS if kind in chosen}


def _list_candidates(replay: Replay, target: float) -> Iterator[tuple[str, Policy, Point]]:
    """Every policy that keeps some rows local and is good enough: the best of each sweep."""
    validators = Policy(True)
    accepted = replay.accept(validators)
    if accepted.any() and find_good_enough(replay, accepted[None, :], target)[0]:
        yield VALIDATORS, validators, replay.measure(validators)
    for kind, sweeps in list_sweeps(replay).items():
        for found in sweeps:
            good = find_good_enough(replay, found.accepted, target) & found.accepted.any(axis=1)
            if good.any():
                policy = found.take(int(good.nonzero()[0][-1]))
                yield kind, policy, replay.measure(policy)


def choose_kind(points: Mapping[str, Point]) -> str | None:
    """The kind that keeps most rows local on val; of equals the one with more right rows there."""
    kinds = [kind for kind in reversed(KINDS) if kind in points]
    return max(kinds, key=lambda k: (points[k]["accepted"], points[k]["right"]), default=None)


def draw_curves(replay: Replay) -> dict[str, list[CurvePoint]]:
    """What every threshold does, by kind and signal."""
    return {
        f"{kind}, {found.policy.signal}": [
            _draw(replay, found, i) for i in range(len(found.thresholds))
        ]
        for kind, sweeps in list_sweeps(replay).items()
        for found in sweeps
    }


def _draw(replay: Replay, found: Sweep, i: int) -> CurvePoint:
    point = replay.measure_accepted(found.accepted[i], found.take(i))
    return {
        "threshold": float(found.thresholds[i]),
        "coverage": point["coverage"],
        "rate": point["rate"],
        "usd_per_1000": point["bill"]["usd_per_1000"],
    }
