"""One evaluation run as it is planned: what is asked of whom, and what is left to ask.

It asks nothing and writes nothing.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swaplib.evaluation.costs import Prices
from swaplib.evaluation.question import EvalRows
from swaplib.formats.metrics_file import EvalParameters, EvalQuestion
from swaplib.models.hosted import HostedLLM
from swaplib.models.local import LocalSLM
from swaplib.models.names import ModelName
from swaplib.rows import SPLITS, Generation, LedgerLine, check_prompts, read_ledger
from swaplib.settings import check_sizes, show_path


@dataclass(frozen=True)
class EvalOptions:
    """How a model is run; see evaluate.run_model."""

    split: str = "test"
    limit: int | None = None
    batch_size: int = 64
    concurrency: int = 8
    max_new_tokens: int = 256
    fresh: bool = False
    is_repeat: bool = False
    probe: int = 0
    session_id: str | None = None

    def check(self) -> None:
        """Raise ValueError for a split that does not exist, or a size below 1."""
        if self.split not in SPLITS:
            expected = ", ".join(SPLITS)
            raise ValueError(f"unknown split {self.split!r}: expected one of {expected}")
        check_sizes(
            " (limit=None is the whole split)",
            limit=self.limit,
            batch_size=self.batch_size,
            concurrency=self.concurrency,
            max_new_tokens=self.max_new_tokens,
        )

    def to_record(self, shots: int, swap_row_limit: int | None) -> EvalParameters:
        """The `parameters` of a metrics file."""
        return {
            "limit": self.limit,
            "batch_size": self.batch_size,
            "concurrency": self.concurrency,
            "max_new_tokens": self.max_new_tokens,
            "shots": shots,
            "fresh": self.fresh,
            "probe": self.probe,
            "swap_row_limit": swap_row_limit,
        }


@dataclass(frozen=True)
class EvalRun:
    """Everything that is known of a run before its first call.

    `question` is what makes two runs the same, and `key` its hash, which the folder's name ends in.
    `ledger` has the ledger's lines by row, and is kept up to date while rows are asked.
    """

    client: HostedLLM | LocalSLM
    model: ModelName
    inputs: EvalRows
    question: EvalQuestion
    parameters: EvalParameters
    prices: Prices
    folder: Path
    key: str
    session_id: str | None
    ledger: dict[int, LedgerLine]

    @property
    def name(self) -> str:
        """What the metrics file is called among those of all models."""
        end = "_repeat" if "is_repeat" in self.question else ""
        return f"{self.question['track']}_{self.model}_{self.question['split']}{end}"

    @property
    def ledger_file(self) -> Path:
        """One line for each answer; the file that a run resumes from."""
        return self.folder / "ledger.jsonl"

    @property
    def metrics_file(self) -> Path:
        """Missing while rows are asked."""
        return self.folder / "metrics.json"

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to ask or to write."""
        return self.metrics_file.is_file() and not self.list_waiting()

    def open(self, folder: Path) -> "EvalRun":
        """The run with what a folder holds now."""
        ledger = read_ledger(folder / "ledger.jsonl")
        check_prompts(folder / "ledger.jsonl", ledger.values(), self.inputs.rows)
        return replace(self, folder=folder, ledger=ledger)

    def list_waiting(self) -> list[int]:
        """Rows that have no ledger line, or one that ended in error."""
        return [i for i in range(len(self.inputs.rows)) if not self.has_answer(i)]

    def has_answer(self, index: int) -> bool:
        """Whether a row has an answer, of whatever status but `error`."""
        line = self.ledger.get(index)
        return line is not None and line.generation.status != "error"

    def get_form(self, index: int) -> dict[str, Any] | None:
        """What goes with a row's messages when it is asked natively."""
        return forms[index].to_request() if (forms := self.inputs.forms) else None

    def price(self, answer: Generation) -> dict[str, float] | None:
        """US dollars of an answer's tokens; None where no price is known."""
        if not self.model.is_hosted:
            return None
        return self.prices.split_price(answer.prompt_tokens, answer.completion_tokens)

    def describe(self) -> str:
        """What is about to be asked, what it may cost, and in which folder it is saved."""
        waiting, n = self.list_waiting(), len(self.inputs.rows)
        messages = [message for i in waiting for message in self.inputs.messages[i]]
        n_prompt = sum(len(message["content"]) for message in messages) // 4
        return (
            f"{self.question['track']} {self.model} {self.question['split']}: {n} rows, "
            f"{n - len(waiting)} answered before, {len(waiting)} calls left (about {n_prompt:,} "
            f"prompt tokens, at 4 characters each){self._say_price(n_prompt, len(waiting))}\n"
            f"run {show_path(self.folder)}"
        )

    def _say_price(self, n_prompt: int, n_calls: int) -> str:
        """What the calls left may cost, in words; nothing where no price is known."""
        most_each = self.question["max_new_tokens"]
        least = self.prices.price_tokens(n_prompt, 0)
        most = self.prices.price_tokens(n_prompt, n_calls * most_each)
        if not n_calls or not self.model.is_hosted or least is None or most is None:
            return ""
        return (
            f"; about ${least:.4f} for the prompts, up to ${most:.4f} if every answer takes "
            f"{most_each} tokens"
        )
