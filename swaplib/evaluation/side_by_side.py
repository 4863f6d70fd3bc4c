"""Runs over the same rows, side by side: rates, paired evidence, why rows failed. What may stand here says comparison.py."""

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from swaplib.data.facts import RowFacts, find_facts
from swaplib.evaluation import stats
from swaplib.evaluation.error_analysis import diagnose
from swaplib.files import hash_file
from swaplib.metrics import Track, core_metrics
from swaplib.rows import LedgerLine, Row, check_prompts, hash_rows, read_rows
from swaplib.runs import read_ledgers
from swaplib.settings import Settings

if TYPE_CHECKING:
    from swaplib.evaluation.evaluate import Run


@dataclass(frozen=True)
class Compared:
    """Runs over the same rows: by model their metrics files and ledgers (in row order), and the rows with their facts.

    `facts` is None for rows without any.
    """

    track: Track
    metrics: dict[str, dict[str, Any]]
    ledgers: dict[str, tuple[LedgerLine, ...]]
    rows: list[Row]
    facts: list[RowFacts] | None

    def list_rates(self) -> dict[str, Any]:
        """All models' rates with their intervals, by model and metric."""
        return {
            model: {
                m: {"rate": content[m], "interval": content["intervals"][m]}
                for m in core_metrics(self.track)
            }
            for model, content in self.metrics.items()
        }

    def compare(self, first: str, second: str, margin: float) -> dict[str, Any]:
        """The paired evidence about two models, by metric."""
        sides = {
            metric: tuple(
                [line.scores[metric.removesuffix("_rate")] for line in self.ledgers[m]]
                for m in (first, second)
            )
            for metric in core_metrics(self.track)
        }
        found = stats.compare_metrics(sides, margin, self.list_groups(first))
        return {metric: asdict(pair) for metric, pair in found.items()}

    def compare_all(self, pairs: Sequence[tuple[str, str]], margin: float) -> list[dict[str, Any]]:
        """The paired evidence about several pairs of models: `first`, `second` and `pairs` (by metric) of each."""
        return [{"first": a, "second": b, "pairs": self.compare(a, b, margin)} for a, b in pairs]

    def diagnose(self) -> dict[str, dict[str, Any]]:
        """Why rows failed, by model, as error_analysis.diagnose makes it."""
        return {
            m: diagnose(self.track, self.rows, ledger, self.facts)
            for m, ledger in self.ledgers.items()
        }

    def list_groups(self, model: str) -> list[Hashable]:
        """What the bootstrap resamples: each row's group of tools, or its prompt where no facts tell one."""
        groups = (
            [fact.group for fact in self.facts] if self.facts else [None] * len(self.ledgers[model])
        )
        return [groups[line.index] or line.prompt_sha256 for line in self.ledgers[model]]


def gather_runs(settings: Settings, track: Track, runs: Sequence["Run"]) -> Compared:
    """The runs that one call of 02 has made, over the same rows of any split, with all that they are judged by.

    Raises:
        ValueError: The rows were changed while they were asked, so that none can be shown beside the outputs.
    """
    found = open_runs(settings, track, {run.metrics["run"]["model"]: run.metrics for run in runs})
    if not found.rows:
        raise ValueError(
            f"the rows of {track} have changed since they were asked. Every answer is kept: bring the rows back to see it, "
            "or run notebooks/02_eval.ipynb again to ask the new ones."
        )
    return found


def open_runs(settings: Settings, track: Track, metrics: dict[str, dict[str, Any]]) -> Compared:
    """Runs over the same rows, by model, with all that they are judged by; there are no rows if these have changed since.

    Raises:
        FileNotFoundError, ValueError: A ledger is gone, or is not its run's or its rows'; the runs asked other rows.
    """
    run, ledgers = next(iter(metrics.values()))["run"], read_ledgers(settings, metrics)
    path = settings.dataset / track / f"{run['split']}.jsonl"
    is_there = path.is_file() and hash_file(path) == run["dataset_sha256"]
    rows = read_rows(path, track)[: run["n_rows"]] if is_there else []
    asked = {model: content["run"]["rows_sha256"] for model, content in metrics.items()}
    if len(set(asked.values())) > 1:
        raise ValueError(
            f"{', '.join(asked)} were asked other rows than each other. Run notebooks/02_eval.ipynb again."
        )
    rows = rows if hash_rows(rows) == run["rows_sha256"] else []
    for model, ledger in ledgers.items() if rows else ():
        check_prompts(
            settings.runs / metrics[model]["run"]["run_id"] / "ledger.jsonl", ledger, rows
        )
    facts = find_facts(settings, track, run["split"], rows) if rows else None
    return Compared(track, metrics, ledgers, rows, facts)
