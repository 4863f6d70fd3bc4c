"""Two models' answers to the rows of a split, routed in one way or other: no model is asked.

replay = open_replay(settings, "toolcall", "azure", "slm_ft", "val")
replay.measure(Policy(True, "mean_logprob", -0.02))    {"coverage": 0.54, "rate": 0.71, …}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from swaplib.evaluation.answers import is_same
from swaplib.evaluation.comparison import open_compared
from swaplib.evaluation.costs import Prices
from swaplib.evaluation.side_by_side import Compared
from swaplib.files import read_json
from swaplib.formats.router import Bill, Point
from swaplib.metrics import Prediction, Track, parse_output
from swaplib.routing.policy import Policy, Signal
from swaplib.routing.validators import Known, Refusal
from swaplib.rows import LedgerLine
from swaplib.settings import Settings

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Replay:
    """The runs of `reference` (the hosted LLM) and `model` (the SLM) on one split.

    `known` is what validators know of each row, in row order.
    """

    compared: Compared
    reference: str
    model: str
    known: tuple[Known, ...]
    prices: Prices

    @cached_property
    def hosted_right(self) -> "np.ndarray":
        """Whether every core metric of a row is right, [rows]."""
        return _list_right(self.compared.ledgers[self.reference])

    @cached_property
    def slm_right(self) -> "np.ndarray":
        """The same for the SLM."""
        return _list_right(self.compared.ledgers[self.model])

    @cached_property
    def answers(self) -> tuple[Prediction | None, ...]:
        """The SLM's answers, parsed."""
        return _parse(self.compared.track, self.compared.ledgers[self.model])

    def list_refusals(self, policy: Policy) -> list[Refusal | None]:
        """Why each row's answer is refused; None for those that are accepted."""
        lines = self.compared.ledgers[self.model]
        return [
            policy.find_refusal(known, line.generation, answer)
            for known, line, answer in zip(self.known, lines, self.answers, strict=True)
        ]

    def accept(self, policy: Policy) -> "np.ndarray":
        """Which rows stay local, [rows]."""
        import numpy as np

        return np.array([refusal is None for refusal in self.list_refusals(policy)], dtype=bool)

    def read_confidence(self, signal: Signal) -> "np.ndarray":
        """How sure the SLM was of each row, [rows]; NaN where it does not say."""
        import numpy as np

        lines = self.compared.ledgers[self.model]
        return np.array([getattr(line.generation, signal) for line in lines], dtype=float)

    def measure(self, policy: Policy) -> Point:
        """What a policy does on these rows."""
        return self.measure_accepted(self.accept(policy), policy)

    def measure_accepted(self, accepted: "np.ndarray", policy: Policy | None = None) -> Point:
        """What accepting some of the rows does.

        Args:
            accepted: Which rows stay local, [rows].
            policy: What has accepted them; None where nothing that could be served has.
        """
        right = self.find_right(accepted)
        wrong = accepted & ~self.slm_right
        return {
            "policy": policy.to_record() if policy else None,
            "n_rows": len(accepted),
            "accepted": int(accepted.sum()),
            "coverage": float(accepted.mean()),
            "right": int(right.sum()),
            "rate": float(right.mean()),
            "accepted_wrong": int(wrong.sum()),
            "lost": int((wrong & self.hosted_right).sum()),
            "gained": int((accepted & self.slm_right & ~self.hosted_right).sum()),
            "bill": self._price(accepted, right, policy is not None or bool(accepted.any())),
        }

    def find_right(self, accepted: "np.ndarray") -> "np.ndarray":
        """Whether each row's answer is right, whoever gives it, [rows] or [ways, rows]."""
        import numpy as np

        return np.where(accepted, self.slm_right, self.hosted_right)

    def route_lines(self, accepted: "np.ndarray") -> tuple[LedgerLine, ...]:
        """The ledger that routing would have left: each row's line of whoever answered it."""
        sides = (self.compared.ledgers[self.reference], self.compared.ledgers[self.model])
        return tuple(sides[int(bit)][i] for i, bit in enumerate(accepted))

    def find_same(self) -> "np.ndarray":
        """On which rows both models gave the same answer, [rows]."""
        import numpy as np

        hosted = _parse(self.compared.track, self.compared.ledgers[self.reference])
        return np.array([*map(is_same, hosted, self.answers)], dtype=bool)

    def _price(self, accepted: "np.ndarray", right: "np.ndarray", asks_slm: bool) -> Bill:
        """What these rows would cost, each weighed by how often it was asked."""
        import numpy as np

        counts = self._counts
        refused = [i for i, bit in enumerate(accepted) if not bit]
        n_prompt = self._sum_tokens("prompt_tokens", refused)
        n_answer = self._sum_tokens("completion_tokens", refused)
        usd = None
        if n_prompt is not None and n_answer is not None:
            usd = self.prices.price_tokens(n_prompt, n_answer)
        hosted, local = usd, self._price_local() if asks_slm else 0.0
        if usd is not None:
            usd = None if local is None else usd + local * int(counts.sum())
        n_right = float(np.dot(right, counts))
        total = int(counts.sum())
        return {
            "hosted_calls": int(counts[refused].sum()),
            "requests": total,
            "prompt_tokens": n_prompt,
            "completion_tokens": n_answer,
            "usd_hosted_per_1000": None if hosted is None else 1000 * hosted / total,
            "usd_per_1000": None if usd is None else 1000 * usd / total,
            "usd_per_right": usd / n_right if usd is not None and n_right else None,
        }

    @cached_property
    def _counts(self) -> "np.ndarray":
        import numpy as np

        facts = self.compared.facts
        lines = self.compared.ledgers[self.model]
        return np.array([facts[line.index].count if facts else 1 for line in lines], dtype=int)

    def _sum_tokens(self, name: str, rows: Sequence[int]) -> int | None:
        """Tokens of the hosted LLM over some rows; None where one is not known."""
        lines = self.compared.ledgers[self.reference]
        tokens = [getattr(lines[i].generation, name) for i in rows]
        if any(n is None for n in tokens):
            return None
        return sum(int(n * self._counts[i]) for i, n in zip(rows, tokens, strict=True))

    def _price_local(self) -> float | None:
        """US dollars for one row of the SLM on a machine that is always busy."""
        speed = self.compared.metrics[self.model]["extra"].get("rows_per_second")
        hour = self.prices.usd_per_hour
        return None if hour is None or not speed else hour / 3600 / speed


def open_replay(settings: Settings, track: Track, reference: str, model: str, split: str) -> Replay:
    """The last runs of two models on a split; raises what comparison.open_compared does."""
    compared = open_compared(settings, track, reference, model, split=split)
    path = settings.dataset / track / "schema.json"
    schema = read_json(path, "Run 01_data again.") if path.is_file() else None
    facts = compared.facts
    known = tuple(
        Known.from_facts(track, facts[line.index] if facts else None, schema)
        for line in compared.ledgers[model]
    )
    return Replay(compared, reference, model, known, Prices.from_settings(settings))


def _list_right(ledger: Sequence[LedgerLine]) -> "np.ndarray":
    import numpy as np

    return np.array([all(line.scores.values()) for line in ledger], dtype=bool)


def _parse(track: Track, ledger: Sequence[LedgerLine]) -> tuple[Prediction | None, ...]:
    return tuple(parse_output(track, line.generation.output) for line in ledger)
