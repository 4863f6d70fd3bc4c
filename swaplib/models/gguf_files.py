"""Reads what a GGUF file says of itself, joins a split one, and refuses one that cannot be used.

No weight is read here, nothing is fetched and nothing of a file is run; `conversion.py` makes the
checkpoint.

    read_gguf(Path("qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"))
    -> architecture "qwen2", quantisation "Q4_K_M", …
"""

import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf import GGUFReader

MAGIC = b"GGUF"
CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # kinds of tokens in GGUF
ROLES = {
    "bos": "bos_token_id",
    "eos": "eos_token_id",
    "unk": "unknown_token_id",
    "pad": "padding_token_id",
}

_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# What numpy and gguf raise on bytes that end too early or mean nothing.
_DAMAGE = (ValueError, IndexError, KeyError, OverflowError, struct.error)


@dataclass(frozen=True)
class GGUFFile:
    """What a GGUF file says of itself.

    `tokens` and `kinds` have one entry each for every token; `named` has the ids of those of bos,
    eos, unk and pad that the file states. `rope_base` and `rope_dimensions` are None where it
    states none; `unread` are parts of it that transformers passes over.
    """

    path: Path
    architecture: str
    quantisation: str
    template: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    named: Mapping[str, int]
    rope_base: float | None
    rope_dimensions: int | None
    unread: tuple[str, ...]

    def list_of_kind(self, kind: int) -> list[int]:
        """The ids of the tokens of a kind, blank ones left out."""
        found = enumerate(zip(self.tokens, self.kinds, strict=True))
        return [i for i, (text, of_kind) in found if of_kind == kind and text.strip()]


def list_architectures() -> list[str]:
    """The causal architectures whose weights and vocabulary transformers reads, by GGUF's names."""
    from gguf import MODEL_ARCH_NAMES
    from transformers.integrations.ggml import GGUF_TO_FAST_CONVERTERS
    from transformers.integrations.gguf import GGUF_TOKENIZER_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    readable = set(GGUF_TO_FAST_CONVERTERS) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    names = {name for name in GGUF_SUPPORTED_ARCHITECTURES if {name, f"{name}_text"} & readable}
    plain = {name.replace("_", "") for name in names}
    known = {name for name in MODEL_ARCH_NAMES.values() if re.sub("[-_]", "", name) in plain}
    return sorted(known | {name for name, kind in GGUF_TOKENIZER_ARCHS.items() if kind in readable})


def find_parts(file: Path) -> list[Path]:
    """The parts of a split GGUF file, in order, whichever is given; another file is its only part.

    Raises:
        FileNotFoundError: The file or a part is not there; the message names it.
        ValueError: It is no GGUF file by its first bytes.
    """
    parts = [file]
    if match := _PART.fullmatch(file.name):
        count = int(match["count"])
        parts = [
            file.with_name(f"{match['stem']}-{n:05}-of-{count:05}.gguf")
            for n in range(1, count + 1)
        ]
    if lacking := [part for part in parts if not part.is_file()]:
        is_split = len(parts) > 1
        whole = f" {file.name} is one of {len(parts)} parts, which must be side by side."
        raise FileNotFoundError(
            f"no file at {', '.join(map(str, lacking))}.{whole if is_split else ''}"
        )
    for part in parts:
        with part.open("rb") as opened:
            if (begin := opened.read(len(MAGIC))) != MAGIC:
                raise ValueError(
                    f"{part} is no GGUF file: it begins with {begin!r}, not with {MAGIC!r}"
                )
    return parts


def name_gguf(file: Path, name: str | None = None) -> str:
    """The name of a file's checkpoint, in lower case: the one given, else the file's own.

    The file's name counts without its suffix and the number of its part.

    Raises:
        ValueError: It can be no folder's name, or none is given and the file is a blob, whose name
            says nothing.
    """
    match = _PART.fullmatch(file.name)
    if name is None and not match and file.suffix != ".gguf":
        raise ValueError(
            f"{file.name} has no .gguf suffix: say with --name what the checkpoint is to be called"
        )
    name = name or (match["stem"] if match else file.stem)
    if not re.fullmatch(r"\w[\w.+-]*", name):
        raise ValueError(
            f"{name!r} cannot be a checkpoint's name: letters, digits and . _ - + alone; give "
            "another by --name"
        )
    return name.lower()


def join_parts(parts: Sequence[Path], target: Path) -> Path:
    """Write the parts of a split file as one, since transformers reads no other.

    It takes as much room on the disk again.

    Raises:
        ValueError: A part is cut off or damaged, or belongs to another file.
    """
    from gguf import GGUFWriter

    readers = [_open(part) for part in parts]
    for number, (part, reader) in enumerate(zip(parts, readers, strict=True)):
        stated = (_value(reader, "split.no"), _value(reader, "split.count"))
        if stated != (number, len(parts)):
            raise ValueError(
                f"{part}: expected part {number} of {len(parts)} (from 0), the file says {stated}"
            )
    writer = GGUFWriter(target, str(_value(readers[0], "general.architecture")))
    for field in readers[0].fields.values():
        if not field.name.startswith(("GGUF.", "split.", "general.architecture")):
            writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1])
    for tensor in (tensor for reader in readers for tensor in reader.tensors):
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def read_gguf(file: Path) -> GGUFFile:
    """Read what a GGUF file says of itself, but no weight; check that it can become a checkpoint.

    Raises:
        ValueError: It is cut off or damaged, a part of a split one, of an architecture that
            transformers cannot read, or without a vocabulary or chat template.
    """
    reader = _open(file)
    architecture = _check_architecture(file, reader)
    template = _value(reader, "tokenizer.chat_template")
    if not template:
        raise ValueError(
            f"{file.name} has no chat template, so it says neither how it is asked nor how an "
            "answer ends. It is of a base model or was converted without one: take an instruct "
            "model's file, or convert its maker's checkpoint again."
        )
    tokens = _value(reader, "tokenizer.ggml.tokens")
    if not tokens:
        raise ValueError(f"{file.name} has no vocabulary (tokenizer.ggml.tokens)")
    ids = {role: _value(reader, f"tokenizer.ggml.{key}") for role, key in ROLES.items()}
    return GGUFFile(
        path=file,
        architecture=architecture,
        quantisation=_name_quantisation(reader),
        template=template,
        tokens=tuple(tokens),
        kinds=tuple(_value(reader, "tokenizer.ggml.token_type") or [1] * len(tokens)),
        named={role: int(i) for role, i in ids.items() if i is not None and 0 <= i < len(tokens)},
        rope_base=_value(reader, f"{architecture}.rope.freq_base"),
        rope_dimensions=_value(reader, f"{architecture}.rope.dimension_count"),
        unread=_list_unread(reader, architecture),
    )


def _check_architecture(file: Path, reader: "GGUFReader") -> str:
    """The architecture of a whole file; raises ValueError for another or for a part of one."""
    architecture = str(_value(reader, "general.architecture"))
    if architecture not in (readable := list_architectures()):
        raise ValueError(
            f"{file.name}: architecture {architecture!r} cannot be read; expected one of "
            f"{', '.join(readable)}"
        )
    if (_value(reader, "split.count") or 1) > 1:
        raise ValueError(
            f"{file.name} is one part of several: name them as they were, like "
            "model-00001-of-00003.gguf"
        )
    return architecture


def _open(file: Path) -> "GGUFReader":
    """A reader of a file that is whole: its tensors are within its length."""
    from gguf import GGUFReader

    try:
        return GGUFReader(file)
    except _DAMAGE as error:
        raise ValueError(
            f"{file.name} is cut off or damaged: {file.stat().st_size:,} bytes are too few for "
            f"what its header states, or the header cannot be read ({error}). Download it again."
        ) from error


def _value(reader: "GGUFReader", key: str) -> Any:
    """What the file states for a key; None where it states nothing."""
    field = reader.get_field(key)
    return None if field is None else field.contents()


def _name_quantisation(reader: "GGUFReader") -> str:
    """The file's type as its makers write it (`Q4_K_M`), else the type of most of its weights."""
    from gguf import LlamaFileType

    stated = _value(reader, "general.file_type")
    if stated in set(LlamaFileType):
        return LlamaFileType(stated).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    weights: Counter[str] = Counter()
    for tensor in reader.tensors:
        weights[tensor.tensor_type.name] += tensor.n_elements
    return max(weights, key=weights.__getitem__)


def _list_unread(reader: "GGUFReader", architecture: str) -> tuple[str, ...]:
    """Where the file stretches positions for long texts, which transformers does not read."""
    tensors = [
        tensor.name
        for tensor in reader.tensors
        if tensor.name.startswith(("rope_freqs", "rope_factors"))
    ]
    stretched = (_value(reader, f"{architecture}.rope.scaling.type") or "none") != "none"
    return (*tensors, *([f"{architecture}.rope.scaling"] if stretched else []))
