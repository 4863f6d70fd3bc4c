"""The tokenizer of a GGUF file, and which of its tokens end an answer and pad.

transformers converts the vocabulary. What it leaves open is settled here by the file's own metadata
and chat template; no weight is read.

    settle_tokens(gguf, load_tokenizer(gguf))
    -> Tokens(ends=(151645,), padding=151643, padding_is="the file's padding token")
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.models.gguf_files import CONTROL, ROLES, UNUSED, USER_DEFINED, GGUFFile
from swaplib.models.templates import render

_RESERVED = re.compile("pad|reserved|unused|placeholder|extra", re.I)
_ANSWER = "Hello there."


@dataclass(frozen=True)
class Tokens:
    """Token ids: those that end an answer, the template's first, and the padding.

    `padding_is` says which token of the file the padding is, in words.
    """

    ends: tuple[int, ...]
    padding: int
    padding_is: str


def load_tokenizer(gguf: GGUFFile) -> Any:
    """The file's vocabulary, its control and user-defined tokens whole, its special ones as stated.

    transformers swaps bos and eos of some architectures, adds tokens of its own where a role is not
    stated, and splits control tokens that it does not know.
    """
    from transformers import AddedToken, AutoTokenizer

    roles = {
        f"{role}_token": gguf.tokens[gguf.named[role]] if role in gguf.named else None
        for role in ROLES
    }
    # local_files_only is saved with the tokenizer: left open, the same file would make other
    # checkpoints where there is no network.
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.path.parent,
        trust_remote_code=False,
        gguf_file=gguf.path.name,
        clean_up_tokenization_spaces=False,
        local_files_only=True,
        **roles,
    )
    whole = tokenizer.get_added_vocab()
    for kind in (CONTROL, USER_DEFINED):
        texts = {gguf.tokens[i]: i for i in gguf.list_of_kind(kind) if gguf.tokens[i] not in whole}
        known = [text for text, i in texts.items() if tokenizer.convert_tokens_to_ids(text) == i]
        is_special = kind == CONTROL
        new = [AddedToken(text, normalized=False, special=is_special) for text in known]
        tokenizer.add_tokens(new, special_tokens=is_special)
    for role, text in roles.items():
        setattr(tokenizer, role, text)
    tokenizer.chat_template = gguf.template
    tokenizer.clean_up_tokenization_spaces = False
    return tokenizer


def settle_tokens(gguf: GGUFFile, tokenizer: Any) -> Tokens:
    """Choose the end and padding tokens, and set them in the tokenizer.

    The file's own end token ends an answer beside the template's. Padding must be no end token: a
    trained end token would vanish from the loss with the padding.
    """
    end = _find_end(gguf, tokenizer)
    ends = tuple(dict.fromkeys(i for i in (end, gguf.named.get("eos")) if i is not None))
    if not ends:
        raise ValueError(
            f"{gguf.path.name}: no special token follows an answer, and the file states no end "
            "token"
        )
    padding, padding_is = _choose_padding(gguf, ends)
    tokenizer.eos_token = gguf.tokens[ends[0]]
    tokenizer.pad_token = gguf.tokens[padding]
    if (tokenizer.eos_token_id, tokenizer.pad_token_id) != (ends[0], padding):
        raise ValueError(
            f"{gguf.path.name}: {tokenizer.eos_token!r} or {tokenizer.pad_token!r} is twice in the "
            "vocabulary"
        )
    return Tokens(ends, padding, padding_is)


def _find_end(gguf: GGUFFile, tokenizer: Any) -> int | None:
    """The first special token that the template writes behind an assistant's turn."""
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
    try:
        _, answer, tail = render(tokenizer, turns, has_generation_prompt=False).rpartition(_ANSWER)
    except TemplateError as error:
        raise ValueError(
            f"{gguf.path.name}: its chat template cannot be filled ({error})"
        ) from error
    if not answer:
        raise ValueError(f"{gguf.path.name}: its chat template leaves out what the assistant says")
    special = {*gguf.list_of_kind(CONTROL), *gguf.list_of_kind(USER_DEFINED), *gguf.named.values()}
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((i for i in ids if i in special), None)


def _choose_padding(gguf: GGUFFile, ends: Sequence[int]) -> tuple[int, str]:
    """The padding token's id, and which token of the file it is."""
    for role, words in (("pad", "the file's padding token"), ("unk", "the file's unknown token")):
        if gguf.named.get(role, ends[0]) not in ends:
            return gguf.named[role], words
    reserved = [i for i in gguf.list_of_kind(CONTROL) if _RESERVED.search(gguf.tokens[i])]
    for i in (*gguf.list_of_kind(UNUSED), *reserved):
        if i not in (*ends, gguf.named.get("bos")) and gguf.tokens[i] not in gguf.template:
            return i, "an unused token"
    raise ValueError(
        f"{gguf.path.name}: padding needs a token that ends no answer, and its vocabulary has none "
        "to spare"
    )


def drop_tokens(file: Path, n_tokens: int, dropped: Collection[str]) -> None:
    """Take tokens out of a tokenizer's file.

    Args:
        file: `tokenizer.json`.
        n_tokens: The size of the vocabulary; transformers adds tokens beyond it, for which the
            weights have no row.
        dropped: The texts of other tokens to take out.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    added = content["added_tokens"]
    kept = [token for token in added if token["id"] < n_tokens and token["content"] not in dropped]
    if len(kept) < len(added):
        text = json.dumps(content | {"added_tokens": kept}, ensure_ascii=False)
        file.write_text(text, encoding="utf-8")
