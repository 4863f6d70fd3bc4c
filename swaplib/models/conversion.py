"""Makes a checkpoint of a GGUF file: safetensors in bfloat16, config and tokenizer.

transformers dequantises the weights. What it leaves open is settled by the file's own metadata: how
positions are turned, here, and the special tokens, in gguf_tokenizer.py.

    convert_gguf(read_gguf(file), folder)
    -> {"tokens": {"end": ["<|im_end|>"], "padding": "<|endoftext|>", …}, …}
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from swaplib.files import replaced_folder, write_json
from swaplib.models.gguf_files import USER_DEFINED, GGUFFile, join_parts, read_gguf
from swaplib.models.gguf_tokenizer import Tokens, drop_tokens, load_tokenizer, settle_tokens
from swaplib.models.templates import render

ANSWER_LIMIT = 64
SAME = 0.999  # a cosine; quantisation leaves .9999 of equal embeddings
ROWS_AT_ONCE = 16_384


def build_checkpoint(
    target: Path, source: Mapping[str, Any], find: Callable[[Path], list[Path]]
) -> Path:
    """Make a checkpoint of a GGUF file's parts; it is whole or not there.

    What you should know before you use the model is printed on stderr.

    Args:
        target: The checkpoint's folder, which is not there yet.
        source: Where the file comes from, for `source.json`.
        find: Returns the parts, in order; it may put them into the folder that it is given, which
            is removed at the end.
    """
    with replaced_folder(target) as built:
        parts = find(built.parent)
        is_split = len(parts) > 1
        gguf = read_gguf(join_parts(parts, built.parent / "joined.gguf") if is_split else parts[0])
        write_json(built / "source.json", {**source, **convert_gguf(gguf, built)})
        for problem in _list_problems(gguf, built):
            print(f"warning: {target.name}: {problem}", file=sys.stderr)
    return target


def _list_problems(gguf: GGUFFile, built: Path) -> list[str]:
    """What a checkpoint that was made of a file may do otherwise than its maker's."""
    problems = []
    if gguf.unread:
        problems.append(
            f"the file stretches positions for long texts ({', '.join(gguf.unread)}), which "
            "transformers does not read from GGUF: answers are not quite those of its maker's "
            "checkpoint, least of all to long prompts."
        )
    if not ends_its_answer(built):
        problems.append(
            f"a greedy answer to 'Say hi' had no end token within {ANSWER_LIMIT} tokens. A base "
            "model's may not; such answers run up to the token limit."
        )
    return problems


def convert_gguf(gguf: GGUFFile, target: Path) -> dict[str, Any]:
    """Write a GGUF file as a safetensors checkpoint in bfloat16, with its own special tokens.

    Memory: the weights in bfloat16 once; while the largest tensor is dequantised (in a small model
    the embedding), also a few times that one in float32; the libraries and the vocabulary.
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
    tokenizer = load_tokenizer(gguf)
    tokens = settle_tokens(gguf, tokenizer)
    model = _load_model(gguf)
    _settle_config(gguf, tokens, model)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    settled = (*tokens.ends, tokens.padding)
    others = [i for i in gguf.list_of_kind(USER_DEFINED) if i not in settled]
    untrained = [gguf.tokens[i] for i in find_untrained(model, others)]
    drop_tokens(target / "tokenizer.json", len(gguf.tokens), untrained)
    names: dict[str, Any] = {
        "end": [gguf.tokens[i] for i in tokens.ends],
        "padding": gguf.tokens[tokens.padding],
        "padding_is": tokens.padding_is,
    }
    if untrained:
        names["untrained"] = untrained
    return {
        "architecture": gguf.architecture,
        "quantisation": gguf.quantisation,
        "tokens": names,
    }


def ends_its_answer(checkpoint: Path) -> bool:
    """Whether a greedy answer to "Say hi" ends within 64 tokens; a base model's may not."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, dtype=torch.bfloat16, trust_remote_code=False
    )
    text = render(tokenizer, [{"role": "user", "content": "Say hi"}])
    prompt = tokenizer(text, add_special_tokens=False, return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=ANSWER_LIMIT, do_sample=False)
    ends = model.generation_config.eos_token_id
    return int(answer[0, -1]) in (ends if isinstance(ends, list) else [ends])


def _load_model(gguf: GGUFFile) -> Any:
    """The file's weights in bfloat16, in a model that may be saved.

    The model that transformers reads from GGUF may not: it is marked as quantised.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    read: Any = AutoModelForCausalLM.from_pretrained  # its types know no output_loading_info
    try:
        loaded, report = read(
            gguf.path.parent,
            trust_remote_code=False,
            gguf_file=gguf.path.name,
            dtype=torch.bfloat16,
            output_loading_info=True,
        )
    except (NotImplementedError, KeyError) as error:
        raise ValueError(
            f"{gguf.path.name}: transformers cannot read its weights ({error})"
        ) from error
    if lacking := sorted(report["missing_keys"]):
        raise ValueError(
            f"{gguf.path.name} lacks {len(lacking)} weight(s) of its architecture: "
            f"{', '.join(lacking[:3])}, …"
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
    """Let the configs state the tokens, and the rotary positions that the file states."""
    from transformers import GenerationConfig

    config = model.config
    ids = {
        "eos_token_id": tokens.ends[0] if len(tokens.ends) == 1 else list(tokens.ends),
        "bos_token_id": gguf.named.get("bos"),
        "pad_token_id": tokens.padding,
    }
    for key, value in ids.items():
        setattr(config, key, value)
    model.generation_config = GenerationConfig(**ids)
    rope = getattr(config, "rope_parameters", None) or {}
    if "rope_theta" not in rope:
        return  # no rotary positions, or several kinds of them, which transformers settles
    rope["rope_theta"] = gguf.rope_base or rope["rope_theta"]
    head_size = getattr(config, "head_dim", None) or config.hidden_size / config.num_attention_heads
    share = (gguf.rope_dimensions or head_size) / head_size
    if share != rope.get("partial_rotary_factor", 1):
        rope["partial_rotary_factor"] = share


def find_untrained(model: Any, tokens: Sequence[int]) -> list[int]:
    """Those of some tokens whose embedding is another token's too: no training has touched them.

    Such a token is neither understood nor written. In Qwen2.5-Coder `</tool_call>` is one: with
    four finished calls in the prompt the model closes none of its own.
    """
    from torch.nn.functional import normalize

    embedding = model.get_input_embeddings().weight  # [vocabulary, size]
    if not tokens:
        return []
    own = normalize(embedding[list(tokens)].float(), dim=1)
    n_alike = own.new_zeros(len(tokens))  # how many tokens have this embedding, itself among them
    for rows in embedding.split(ROWS_AT_ONCE):  # not the whole vocabulary in float32
        n_alike += (normalize(rows.float(), dim=1) @ own.T > SAME).sum(dim=0)
    return [i for i, n in zip(tokens, n_alike.tolist(), strict=True) if n > 1]
