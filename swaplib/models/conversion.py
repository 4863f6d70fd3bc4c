"""Makes a checkpoint of a GGUF file: safetensors in bfloat16, config and tokenizer.

transformers dequantises the weights and converts the vocabulary. What it leaves open is settled
here by the file's own metadata and chat template: the token that ends an answer, another one for
padding, the tokens that are never split, and how positions are turned.

    convert_gguf(read_gguf(file), folder)     {"tokens": {"end": ["<|im_end|>"], "padding": "<|endoftext|>", …}, …}
"""

import json
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swaplib.files import replaced_folder, write_json
from swaplib.models.gguf_files import (
    CONTROL,
    ROLES,
    UNUSED,
    USER_DEFINED,
    GGUFFile,
    join_parts,
    read_gguf,
)
from swaplib.models.templates import render

ANSWER_LIMIT = 64
SAME = 0.999  # a cosine; quantisation leaves .9999 of equal embeddings
ROWS_AT_ONCE = 16_384

_RESERVED = re.compile("pad|reserved|unused|placeholder|extra", re.I)
_ANSWER = "Hello there."


@dataclass(frozen=True)
class Tokens:
    """The ids of the tokens that end an answer (the template's first) and of the padding, and which token that is."""

    ends: tuple[int, ...]
    padding: int
    padding_is: str


def build_checkpoint(
    target: Path, source: Mapping[str, Any], find: Callable[[Path], list[Path]]
) -> Path:
    """Make a checkpoint of a GGUF file's parts; it is whole or not there.

    What a person should know before asking the model anything is said on stderr.

    Args:
        target: The checkpoint's folder, which is not there yet.
        source: Where the file comes from, for `source.json`.
        find: Gives the parts, in order; it may put them into the folder that it is given, which is
            removed at the end.
    """
    with replaced_folder(target) as built:
        parts = find(built.parent)
        gguf = read_gguf(
            parts[0] if len(parts) == 1 else join_parts(parts, built.parent / "joined.gguf")
        )
        write_json(built / "source.json", {**source, **convert_gguf(gguf, built)})
        for problem in _list_problems(gguf, built):
            print(f"warning: {target.name}: {problem}", file=sys.stderr)
    return target


def _list_problems(gguf: GGUFFile, built: Path) -> list[str]:
    problems = []
    if gguf.unread:
        problems.append(
            f"the file stretches positions for long texts ({', '.join(gguf.unread)}), which transformers does not read from "
            "GGUF: answers are not quite those of its maker's checkpoint, least of all to long prompts."
        )
    if not ends_its_answer(built):
        problems.append(
            f"a greedy answer to 'Say hi' came to no end token within {ANSWER_LIMIT} tokens. A base model's may not; such "
            "answers go on to the token limit."
        )
    return problems


def convert_gguf(gguf: GGUFFile, target: Path) -> dict[str, Any]:
    """Write a GGUF file as a safetensors checkpoint in bfloat16, with the special tokens of its own metadata and template.

    Memory: the weights in bfloat16 once; beside them, while the largest tensor is dequantised (in a
    small model the embedding), a few times that in float32; the libraries and the vocabulary.
    Measured as a process's peak: 5.5 GB for 3.55 GB of weights (Qwen2.5-Coder-1.5B), 3.0 GB for
    1.26 GB (0.5B). The experts of a mixture pass through float32, by the code of transformers three
    times the checkpoint's size; this was not measured.

    Returns:
        What was taken for the tokens, the architecture and the quantisation, for the checkpoint's
        `source.json`. Tokens that are `untrained` are read and written as the text they are.

    Raises:
        ValueError: Weights are missing or of a kind that cannot be read, or no token is left for
            the end or the padding.
    """
    tokenizer = _load_tokenizer(gguf)
    tokens = _settle_tokens(gguf, tokenizer)
    model = _load_model(gguf)
    _settle_config(gguf, tokens, model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    asked = [i for i in gguf.list_of_kind(USER_DEFINED) if i not in (*tokens.ends, tokens.padding)]
    untrained = [gguf.tokens[i] for i in find_untrained(model, asked)]
    _drop_tokens(target / "tokenizer.json", len(gguf.tokens), untrained)
    names = {"end": [gguf.tokens[i] for i in tokens.ends], "padding": gguf.tokens[tokens.padding]}
    return {
        "architecture": gguf.architecture,
        "quantisation": gguf.quantisation,
        "tokens": names
        | {"padding_is": tokens.padding_is}
        | ({"untrained": untrained} if untrained else {}),
    }


def ends_its_answer(checkpoint: Path) -> bool:
    """Whether a greedy answer to "Say hi" comes to an end token within 64 tokens; a base model's may not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, trust_remote_code=False
    )
    text = render(tokenizer, [{"role": "user", "content": "Say hi"}])
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=ANSWER_LIMIT, do_sample=False)
    ends = model.generation_config.eos_token_id
    return int(answer[0, -1]) in (ends if isinstance(ends, list) else [ends])


def _load_tokenizer(gguf: GGUFFile) -> Any:
    """The file's vocabulary, with its control and user-defined tokens whole and its special tokens as it states them.

    transformers swaps bos and eos of some architectures, adds tokens of its own where a role is not
    stated, and splits control tokens that it does not know.
    """
    from transformers import AddedToken, AutoTokenizer

    roles = {
        f"{role}_token": gguf.tokens[gguf.named[role]] if role in gguf.named else None
        for role in ROLES
    }
    options = {"gguf_file": gguf.path.name, "clean_up_tokenization_spaces": False}
    options["local_files_only"] = (
        True  # is saved: left open, one file would make other checkpoints where there is no network
    )
    tokenizer = AutoTokenizer.from_pretrained(
        gguf.path.parent, trust_remote_code=False, **options, **roles
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


def _settle_tokens(gguf: GGUFFile, tokenizer: Any) -> Tokens:
    """Set the end and padding token of a tokenizer.

    The file's own end token ends an answer beside the template's. Padding must be no end token: a
    trained end token would vanish from the loss with the padding.
    """
    end = _find_end(gguf, tokenizer)
    ends = tuple(dict.fromkeys(i for i in (end, gguf.named.get("eos")) if i is not None))
    if not ends:
        raise ValueError(
            f"{gguf.path.name}: no special token follows an answer, and the file states no end token"
        )
    padding, padding_is = _find_padding(gguf, ends)
    tokenizer.eos_token, tokenizer.pad_token = gguf.tokens[ends[0]], gguf.tokens[padding]
    if (tokenizer.eos_token_id, tokenizer.pad_token_id) != (ends[0], padding):
        raise ValueError(
            f"{gguf.path.name}: {tokenizer.eos_token!r} or {tokenizer.pad_token!r} stands twice in the vocabulary"
        )
    return Tokens(ends, padding, padding_is)


def _find_end(gguf: GGUFFile, tokenizer: Any) -> int | None:
    """The first special token that the template writes behind an assistant's turn."""
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": _ANSWER}]
    try:
        _, found, tail = render(tokenizer, turns, has_generation_prompt=False).rpartition(_ANSWER)
    except TemplateError as error:
        raise ValueError(
            f"{gguf.path.name}: its chat template cannot be filled ({error})"
        ) from error
    if not found:
        raise ValueError(f"{gguf.path.name}: its chat template leaves out what the assistant says")
    special = {*gguf.list_of_kind(CONTROL), *gguf.list_of_kind(USER_DEFINED), *gguf.named.values()}
    return next(
        (i for i in tokenizer(tail, add_special_tokens=False)["input_ids"] if i in special), None
    )


def _find_padding(gguf: GGUFFile, ends: Sequence[int]) -> tuple[int, str]:
    """The padding token's id, and which token of the file it is."""
    for role, words in (("pad", "the file's padding token"), ("unk", "the file's unknown token")):
        if gguf.named.get(role, ends[0]) not in ends:
            return gguf.named[role], words
    reserved = [i for i in gguf.list_of_kind(CONTROL) if _RESERVED.search(gguf.tokens[i])]
    for i in (*gguf.list_of_kind(UNUSED), *reserved):
        if i not in (*ends, gguf.named.get("bos")) and gguf.tokens[i] not in gguf.template:
            return i, "an unused token"
    raise ValueError(
        f"{gguf.path.name}: padding needs a token that ends no answer, and its vocabulary has none to spare"
    )


def _load_model(gguf: GGUFFile) -> Any:
    """The file's weights in bfloat16, in a model that may be saved: the one that is read is marked as quantised."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    options = {"gguf_file": gguf.path.name, "dtype": torch.bfloat16, "output_loading_info": True}
    try:
        loaded, found = AutoModelForCausalLM.from_pretrained(
            gguf.path.parent, trust_remote_code=False, **options
        )
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{gguf.path.name}: transformers cannot read its weights ({error})"
        ) from error
    if lacking := sorted(found["missing_keys"]):
        raise ValueError(
            f"{gguf.path.name} lacks {len(lacking)} weight(s) of its architecture: {', '.join(lacking[:3])}, …"
        )
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):  # no second copy of the weights
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, trust_remote_code=False
        )
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    return model


def _settle_config(gguf: GGUFFile, tokens: Tokens, model: Any) -> None:
    """Let config and generation config state the tokens, and the config the rotary positions that the file states."""
    from transformers import GenerationConfig

    config = model.config
    eos = tokens.ends[0] if len(tokens.ends) == 1 else list(tokens.ends)
    ids = {
        "eos_token_id": eos,
        "bos_token_id": gguf.named.get("bos"),
        "pad_token_id": tokens.padding,
    }
    for key, value in ids.items():
        setattr(config, key, value)
    model.generation_config = GenerationConfig(**ids)
    rope = getattr(config, "rope_parameters", None) or {}
    if (
        "rope_theta" not in rope
    ):  # no rotary positions, or one kind for each kind of layer, which transformers settles
        return
    rope["rope_theta"] = gguf.rope_base or rope["rope_theta"]
    head_size = getattr(config, "head_dim", None) or config.hidden_size / config.num_attention_heads
    share = (gguf.rope_dimensions or head_size) / head_size
    if share != rope.get("partial_rotary_factor", 1):
        rope["partial_rotary_factor"] = share


def find_untrained(model: Any, asked: Sequence[int]) -> list[int]:
    """Those of some tokens whose embedding is another token's too, as it is of those that no training has touched.

    Such a token is neither understood nor written. In Qwen2.5-Coder `</tool_call>` is one: with
    four finished calls in the prompt the model closes none of its own.
    """
    from torch.nn.functional import normalize

    embedding = model.get_input_embeddings().weight
    if not asked:
        return []
    wanted = normalize(embedding[list(asked)].float(), dim=1)
    alike = [0] * len(asked)  # tokens with this embedding, itself among them
    for rows in embedding.split(ROWS_AT_ONCE):  # not the whole vocabulary in float32
        found = (normalize(rows.float(), dim=1) @ wanted.T > SAME).sum(dim=0).tolist()
        alike = [n + more for n, more in zip(alike, found, strict=True)]
    return [i for i, n in zip(asked, alike, strict=True) if n > 1]


def _drop_tokens(file: Path, n_tokens: int, dropped: Collection[str]) -> None:
    """Take out tokens that transformers added beyond the vocabulary, for which the weights have no row, and others."""
    content = json.loads(file.read_text(encoding="utf-8"))
    kept = [
        token
        for token in content["added_tokens"]
        if token["id"] < n_tokens and token["content"] not in dropped
    ]
    if len(kept) < len(content["added_tokens"]):
        file.write_text(
            json.dumps(content | {"added_tokens": kept}, ensure_ascii=False), encoding="utf-8"
        )
