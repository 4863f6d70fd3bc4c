"""Which runs may be compared, and the paired evidence about two of them.

It decides nothing and writes nothing. Two runs are compared only when both are complete and answer
the same question: the same rows, messages and limits, and for local models the same base. Few-shot
examples may differ, and a checkpoint that is not quantised may be compared with itself in 4-bit:
they are what such a comparison is about.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from swaplib.evaluation.side_by_side import Compared, open_runs
from swaplib.files import hash_file
from swaplib.formats.metrics_file import MetricsFile
from swaplib.metrics import Track, canonical_json
from swaplib.models.names import ModelName
from swaplib.prompts import MAX_SHOTS, pick_shots
from swaplib.rows import hash_rows, read_rows
from swaplib.runs import read_metrics, read_run
from swaplib.settings import Settings, show_path

Agreed = Literal[
    "split", "n_rows", "dataset_sha256", "rows_sha256", "messages_sha256", "max_new_tokens"
]
MUST_AGREE: tuple[Agreed, ...] = (
    "split",
    "n_rows",
    "dataset_sha256",
    "rows_sha256",
    "messages_sha256",
    "max_new_tokens",
)
_OF_THE_ADAPTER = ("model", "adapter_sha256", "is_merged")
_OF_THE_PRECISION = ("quantisation", "is_dequantised")


def check_comparable(first: MetricsFile, second: MetricsFile) -> None:
    """Check that two runs may be compared: both complete, same rows, messages and limits.

    Raises:
        ValueError: Says what differs, or which run has rows without an answer, and what to do.
    """
    for metrics in (first, second):
        if not metrics["complete"]:
            raise ValueError(
                f"the run {metrics['run']['run_id']} is not complete: "
                f"{metrics['n_by_status']['error']} of {metrics['n_rows']} rows ended in error. "
                "Run 02_eval again; it asks only those rows."
            )
    a, b = first["run"], second["run"]
    differing = [f"  {key}: {a[key]} against {b[key]}" for key in MUST_AGREE if a[key] != b[key]]
    if differing:
        raise ValueError(
            f"the runs {a['run_id']} and {b['run_id']} do not answer the same question:\n"
            + "\n".join(differing)
            + "\nRun 02_eval for both models with the same rows and parameters."
        )


def read_compared(
    settings: Settings, track: Track, *models: str, split: str = "test"
) -> dict[str, MetricsFile]:
    """Read the metrics files of models on a split, and check that they may be compared.

    Returns:
        The content of each model's metrics file, in the order asked.

    Raises:
        FileNotFoundError, ValueError: A run is missing or incomplete, the runs do not answer the
            same question, or the rows have changed since.
    """
    metrics = {model: read_metrics(settings, track, model, split) for model in models}
    first, *others = metrics.values()
    for other in others:
        check_comparable(first, other)
    _check_base(metrics)
    dataset = settings.dataset / track / f"{first['run']['split']}.jsonl"
    if not dataset.is_file() or hash_file(dataset) != first["run"]["dataset_sha256"]:
        raise ValueError(
            f"the runs were made on other rows than those in {show_path(dataset)} now. Run 02_eval "
            "again."
        )
    return metrics


def open_compared(settings: Settings, track: Track, *models: str, split: str = "test") -> Compared:
    """Read the runs of models on a split with their rows; raises what read_compared does."""
    return open_runs(settings, track, read_compared(settings, track, *models, split=split))


def _check_base(metrics: Mapping[str, MetricsFile]) -> None:
    """Raise ValueError when the local models among these runs are not of one base."""
    named = [(ModelName.parse(content["run"]["model"]), content) for content in metrics.values()]
    local = [(name.is_full, content) for name, content in named if not name.is_hosted]
    shared = {_base_of(content, (*_OF_THE_ADAPTER, *_OF_THE_PRECISION)) for _, content in local}
    of_kind = {(is_full, _base_of(content, _OF_THE_ADAPTER)) for is_full, content in local}
    if len(shared) > 1 or len(of_kind) > len({is_full for is_full, _ in local}):
        raise ValueError(
            "the local models' runs are not of one base: checkpoint, quantisation, arithmetic or "
            "server differ. Run 02_eval, 03_decision and 05_post_eval with the same SLM on the "
            "same machine."
        )


def _base_of(metrics: MetricsFile, left_out: Collection[str]) -> str:
    """A local model's identity without some of its parts, as canonical JSON."""
    identity = metrics["run"]["identity"]
    return canonical_json({key: v for key, v in identity.items() if key not in left_out})


def find_full(settings: Settings, track: Track, base: str) -> str | None:
    """The run of a model's checkpoint without its quantisation: `slm-full` for `slm`.

    One that answers another question than the base's last run, or that has another adapter, is left
    out, and a printed line says so.
    """
    full = str(replace(ModelName.parse(base), is_full=True))
    if not _is_there(settings, track, full) or not filter_comparable(settings, track, base, [full]):
        return None
    adapters = {
        read_metrics(settings, track, m)["run"]["identity"].get("adapter_sha256")
        for m in (base, full)
    }
    if len(adapters) > 1:
        print(
            f"{full} is left out: its run was of another adapter than that of {base}. Run 02_eval "
            "with it again."
        )
        return None
    return full


def _is_there(settings: Settings, track: Track, model: ModelName | str) -> bool:
    return (settings.evaluation / f"{track}_{model}_test.json").is_file()


def find_other_form(settings: Settings, track: Track, bases: Iterable[str]) -> list[str]:
    """Runs in the other form (`slm-native` for `slm`) that answer the model's own question."""
    parsed = {base: ModelName.parse(base) for base in bases}
    names = {base: str(name.in_form(not name.is_native)) for base, name in parsed.items()}
    there = {base: name for base, name in names.items() if _is_there(settings, track, name)}
    kept = [filter_comparable(settings, track, base, [name]) for base, name in there.items()]
    return [name for of_base in kept for name in of_base]


def find_few_shot(settings: Settings, track: Track, base: str) -> list[str]:
    """Few-shot runs of a model that answer the question of its last run, fewest examples first.

    They are asked by hand, whatever form the base is asked in.
    """
    weights = ModelName.parse(base).base
    names = [ModelName(weights, shots=n) for n in range(1, MAX_SHOTS + 1)]
    names = [name for name in names if _is_there(settings, track, name)]
    train = settings.dataset / track / "train.jsonl"
    rows = read_rows(train, track) if names else []
    kept = []
    for name in names:
        made_with = read_metrics(settings, track, str(name))["run"]["shots_sha256"]
        if name.shots <= len(rows) and made_with == hash_rows(pick_shots(rows, name.shots)):
            kept.append(str(name))
        else:
            print(
                f"{name} is left out: its examples are not those of {show_path(train)} now. Run "
                "02_eval with them again."
            )
    return filter_comparable(settings, track, base, kept)


def choose_shots(settings: Settings, track: Track, names: Sequence[str]) -> str | None:
    """Which of several few-shot runs has the most right rows on val; of equals the fewest examples.

    What is chosen on the rows that it is judged by looks better than it is; so without runs on val
    none is chosen, and a printed line says so.
    """
    runs = {
        name: read_metrics(settings, track, name, "val")
        for name in names
        if (settings.evaluation / f"{track}_{name}_val.json").is_file()
    }
    kept: dict[str, MetricsFile] = {}
    for name, content in runs.items():
        try:
            of_test = read_metrics(settings, track, name)
            check_comparable(next(iter(kept.values()), content), content)
            _check_base({"test": of_test, "val": content})
            if of_test["run"]["shots_sha256"] != content["run"]["shots_sha256"]:
                raise ValueError("its run on val has other examples than that on test")
            kept[name] = content
        except ValueError as error:
            print(f"{name} is not chosen: {error}")
    if missing := [name for name in names if name not in runs]:
        listed = ",".join(missing)
        print(
            f"not recommended without a run on val: {listed}. Run 02_eval with -p models {listed} "
            "-p split val."
        )
    return min(
        kept,
        key=lambda name: (-kept[name]["extra"]["right"], ModelName.parse(name).shots),
        default=None,
    )


def filter_comparable(
    settings: Settings, track: Track, reference: str, names: Sequence[str]
) -> list[str]:
    """Those of the named models whose last run may be compared with a reference's.

    One that answers another question, such as more rows, or has another base, is left out, and a
    printed line says so.
    """
    kept = []
    for name in names:
        try:
            read_compared(settings, track, reference, name)
            kept.append(name)
        except ValueError as error:
            print(f"{name} is left out: {error}")
    return kept


def compare_runs(settings: Settings, run_ids: str, margin: float = 0.05) -> dict[str, Any] | None:
    """Compare two runs by their ids, such as two runs of one model, on the rows that both answered.

    Args:
        settings: The home whose runs are read.
        run_ids: Two ids with a comma between; an empty text asks for nothing.
        margin: How much worse still counts as not worse, a rate in 0..1.

    Returns:
        `track`, `first`, `second` (their ids), `margin` and `pairs`, the paired evidence by metric;
        None when nothing was asked.

    Raises:
        FileNotFoundError, ValueError: There is no such run, or the two do not answer the same
            question.
    """
    if not run_ids.strip():
        return None
    ids = [run_id.strip() for run_id in run_ids.split(",")]
    if len(ids) != 2 or ids[0] == ids[1]:
        raise ValueError(f"compare={run_ids!r}: expected two run ids with a comma between")
    first, second = ids
    metrics = {run_id: read_run(settings, run_id) for run_id in ids}
    check_comparable(metrics[first], metrics[second])
    _check_base(metrics)
    track = metrics[first]["run"]["track"]
    pairs = open_runs(settings, track, metrics).compare(first, second, margin)
    return {"track": track, "first": first, "second": second, "pairs": pairs, "margin": margin}
