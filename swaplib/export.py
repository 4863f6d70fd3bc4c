"""Takes an adapter out of this workbook: as it is, for servers that load PEFT folders, or merged into its base.

The merged weights are those that were evaluated: the base's 4-bit values as bfloat16, with the adapter added. Merging into
the base's original weights would make another model than the one whose score is known.
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from swaplib.local import LocalSLM
from swaplib.rows import write_json


def export_adapter(slm: LocalSLM, target: Path) -> None:
    """Copy the adapter's folder to `target`, which must not exist yet.

    Raises:
        FileNotFoundError, FileExistsError: There is no adapter, or the target is there.
    """
    slm.check()
    _build(target, lambda folder: shutil.copytree(slm.adapter, folder))


def export_merged(slm: LocalSLM, target: Path) -> None:
    """Write base and adapter as one checkpoint in bfloat16 to `target`, which must not exist yet.

    Args:
        slm: The checkpoint with its adapter.
        target: The folder to make; it is whole or not there.

    Raises:
        FileNotFoundError, FileExistsError: There is no adapter, or the target is there.
    """
    import torch

    slm.check()

    def write(folder: Path) -> None:
        model = slm.load_merged().to(torch.bfloat16)
        model.save_pretrained(folder)
        slm.tokenizer.save_pretrained(folder)
        write_json(folder / "source.json", {"merged": slm.identity()})

    _build(target, write)


def _build(target: Path, write: Callable[[Path], object]) -> None:
    """Make a folder beside its place, then rename it: a half-written one is never there."""
    if target.exists():
        raise FileExistsError(f"{target} exists; name another folder, or delete it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as work:
        write(Path(work) / "export")
        os.replace(Path(work) / "export", target)
