"""The types of the JSON files are true: of committed files, and of files made now."""

import functools
import json
import operator
import types
import typing
from pathlib import Path

import pytest
import typing_extensions
from pydantic import TypeAdapter
from raw_rows import write_own
from runs import right, run_azure
from servers import serving

from swaplib.data import dataset
from swaplib.evaluation import decision
from swaplib.files import write_json
from swaplib.formats.decision import Decision
from swaplib.formats.manifest import Manifest
from swaplib.formats.metrics_file import MetricsFile
from swaplib.formats.run_card import RunCard
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.settings import ROOT

RECORDED = ROOT / "benchmarks" / "results" / "recorded"
HOMES = [RECORDED, *sorted((RECORDED / "examples").iterdir())]
ONLY_05 = {"verdict", "recommended", "chosen", "rules"}


def rebuild(hint):
    """The same type of typing_extensions' TypedDicts: pydantic reads others from Python 3.12 on."""
    if typing_extensions.is_typeddict(hint):
        keys = typing_extensions.get_type_hints(hint, include_extras=True)
        return typing_extensions.TypedDict(hint.__name__, {k: rebuild(h) for k, h in keys.items()})
    kind, parts = typing.get_origin(hint), tuple(map(rebuild, typing.get_args(hint)))
    if kind in (typing.Union, types.UnionType):
        return functools.reduce(operator.or_, parts)
    if kind in (None, typing.Literal):
        return hint
    return kind[parts if len(parts) > 1 else parts[0]]


def check(path: Path, kind: type) -> None:
    """Raise pydantic's ValidationError unless a file is of this type and has no other keys."""
    adapter = TypeAdapter(rebuild(kind))
    adapter.validate_json(path.read_text(encoding="utf-8"), strict=True, extra="forbid")


def list_recorded(pattern: str) -> list[Path]:
    found = [path for home in HOMES for path in sorted(home.glob(pattern))]
    assert found, pattern
    return found


@pytest.mark.parametrize("pattern", ["*_test.json", "*_val.json", "*_repeat.json"])
def test_recorded_metrics_files_fit_their_type(pattern):
    for path in list_recorded(f"05_eval/{pattern}"):
        check(path, MetricsFile)


def test_recorded_decisions_fit_their_type_and_only_05s_have_its_keys():
    for path in list_recorded("05_eval/*_decision.json"):
        check(path, Decision)
        is_post = path.name.endswith("_post_decision.json")
        assert ONLY_05 & set(json.loads(path.read_text())) == (ONLY_05 if is_post else set())


def test_recorded_run_cards_fit_their_type():
    for path in [ROOT / "slm_swap/stand_in/run_card.json", *list_recorded("04_ft/*/run_card.json")]:
        check(path, RunCard)


def test_the_committed_manifest_fits_its_type():
    check(ROOT / "slm_swap" / "02_dataset" / "manifest.json", Manifest)


@pytest.mark.parametrize("is_split", [False, True])
def test_a_manifest_of_own_rows_fits_its_type(is_split, settings, tmp_path):
    own = write_own(tmp_path / "own", "structured") if is_split else ROOT / "examples" / "invoices"
    dataset.build_dataset(settings, str(own), {})
    check(settings.dataset / "manifest.json", Manifest)


def test_new_metrics_files_and_a_new_decision_fit_their_types(toolcall_home):
    with serving(right) as (root, _):
        made = run_azure(toolcall_home, root)
    check(made.folder / "metrics.json", MetricsFile)
    identity = Checkpoint(toolcall_home.slm_model_path).identity()
    slm = made.metrics | {"run": made.metrics["run"] | {"model": "slm", "identity": identity}}
    write_json(toolcall_home.evaluation / "toolcall_slm_test.json", slm)
    check(toolcall_home.evaluation / "toolcall_slm_test.json", MetricsFile)
    decision.decide(toolcall_home, "toolcall")
    check(toolcall_home.evaluation / "toolcall_decision.json", Decision)
