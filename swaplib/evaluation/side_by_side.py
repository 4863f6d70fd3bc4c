"""Runs over the same rows, side by side: rates, paired evidence, why rows failed.

Which runs may be compared is in comparison.py.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

from swaplib.data.facts import RowFacts, find_facts
from swaplib.evaluation import stats
from swaplib.evaluation.error_analysis import diagnose
from swaplib.evaluation.repeats import describe_all
from swaplib.evaluation.usage import weigh_ledger
from swaplib.files import hash_file
from swaplib.formats.evidence import Pair, PairedRecord, Rate
from swaplib.formats.metrics_file import MetricsFile, Taken
from swaplib.metrics import Track, core_metrics
from swaplib.rows import LedgerLine, Row, check_prompts, hash_rows, read_rows
from swaplib.runs import read_ledgers
from swaplib.settings import Settings

if TYPE_CHECKING:
    from swaplib.evaluation.evaluate import Run


@dataclass(frozen=True)
class Compared:
    """Runs over the same rows: metrics files and ledgers (in row order) by model, and the rows.

    `facts` is None for rows without any.
    """

    track: Track
    metrics: Mapping[str, MetricsFile]
    ledgers: Mapping[str, tuple[LedgerLine, ...]]
    rows: list[Row]
    facts: list[RowFacts] | None

    def list_rates(self) -> dict[str, dict[str, Rate]]:
        """All models' rates with their intervals, by model and metric."""
        return {
            model: {
                metric: {"rate": content[metric], "interval": content["intervals"][metric]}
                for metric in core_metrics(self.track)
            }
            for model, content in self.metrics.items()
        }

    def compare(self, first: str, second: str, margin: float) -> dict[str, PairedRecord]:
        """The paired evidence about two models, by metric."""
        sides = {
            str(metric): (self._list_bits(first, metric), self._list_bits(second, metric))
            for metric in core_metrics(self.track)
        }
        evidence = stats.compare_metrics(sides, margin, self.list_groups(first))
        return {metric: to_record(pair) for metric, pair in evidence.items()}

    def _list_bits(self, model: str, metric: str) -> list[bool]:
        name = metric.removesuffix("_rate")
        return [line.scores[name] for line in self.ledgers[model]]

    def compare_all(self, pairs: Sequence[tuple[str, str]], margin: float) -> list[Pair]:
        """The paired evidence about several pairs of models."""
        return [{"first": a, "second": b, "pairs": self.compare(a, b, margin)} for a, b in pairs]

    def diagnose(self) -> dict[str, dict[str, Any]]:
        """Why rows failed, by model, as error_analysis.diagnose makes it."""
        return {
            model: diagnose(self.track, self.rows, ledger, self.facts)
            for model, ledger in self.ledgers.items()
        }

    def weigh_requests(self) -> dict[str, Taken] | None:
        """What each run would have taken, had it been asked each row as often as the log was.

        None where each was asked once, as in every source but a log.
        """
        counts = [fact.count for fact in self.facts or ()]
        if max(counts, default=1) == 1:
            return None
        return {model: weigh_ledger(ledger, counts) for model, ledger in self.ledgers.items()}

    def describe_repeats(self) -> list[dict[str, str]]:
        """The faults that many outputs of a model share, as repeats.describe_all makes them."""
        return describe_all(self.track, self.rows, self.ledgers)

    def list_groups(self, model: str) -> list[Hashable]:
        """What the bootstrap resamples: each row's group of tools, or its prompt without facts."""
        ledger = self.ledgers[model]
        if not self.facts:
            return [line.prompt_sha256 for line in ledger]
        return [self.facts[line.index].group or line.prompt_sha256 for line in ledger]


def to_record(evidence: stats.PairedEvidence) -> PairedRecord:
    """Paired evidence as files have it."""
    return cast(PairedRecord, asdict(evidence))


def gather_runs(settings: Settings, track: Track, runs: Sequence["Run"]) -> Compared:
    """The runs that one call of 02 has made, over the same rows of any split.

    Raises:
        ValueError: The rows were changed while they were asked, so that none can be shown beside
            the outputs.
    """
    metrics = {run.metrics["run"]["model"]: run.metrics for run in runs}
    compared = open_runs(settings, track, metrics)
    if not compared.rows:
        raise ValueError(
            f"the rows of {track} have changed since they were asked. Every answer is saved: bring "
            "the rows back to see it, or run notebooks/02_eval.ipynb again to ask the new ones."
        )
    return compared


def open_runs(settings: Settings, track: Track, metrics: Mapping[str, MetricsFile]) -> Compared:
    """Runs over the same rows, by model; without rows if these have changed since.

    Raises:
        FileNotFoundError, ValueError: A ledger is gone, or is not its run's or its rows'; the runs
            asked other rows.
    """
    run = next(iter(metrics.values()))["run"]
    ledgers = read_ledgers(settings, metrics)
    hashes = {content["run"]["rows_sha256"] for content in metrics.values()}
    if len(hashes) > 1:
        raise ValueError(
            f"{', '.join(metrics)} were asked other rows than each other. Run "
            "notebooks/02_eval.ipynb again."
        )
    rows = _read_evaluated(settings, track, metrics)
    if not rows:
        return Compared(track, metrics, ledgers, [], None)
    for model, ledger in ledgers.items():
        run_id = metrics[model]["run"]["run_id"]
        check_prompts(settings.runs / run_id / "ledger.jsonl", ledger, rows)
    facts = find_facts(settings, track, run["split"], rows)
    return Compared(track, metrics, ledgers, rows, facts)


def _read_evaluated(
    settings: Settings, track: Track, metrics: Mapping[str, MetricsFile]
) -> list[Row]:
    """The rows that runs were asked; none if these have changed since."""
    run = next(iter(metrics.values()))["run"]
    path = settings.dataset / track / f"{run['split']}.jsonl"
    if not path.is_file() or hash_file(path) != run["dataset_sha256"]:
        return []
    rows = read_rows(path, track)[: run["n_rows"]]
    return rows if hash_rows(rows) == run["rows_sha256"] else []
