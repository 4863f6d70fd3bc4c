"""Loads a checkpoint's weights with transformers, bitsandbytes and PEFT, set to greedy generation.

The three are imported when weights are loaded, not before.
"""

from collections.abc import Sequence
from logging import ERROR, getLogger
from typing import TYPE_CHECKING, Any

from swaplib.models.local_checkpoint import Checkpoint

if TYPE_CHECKING:
    from transformers import GenerationConfig


def load_network(checkpoint: Checkpoint, is_dequantised: bool, is_merged: bool) -> Any:
    """The network of a checkpoint, with its adapter where it has one.

    Args:
        checkpoint: What to load.
        is_dequantised: Whether 4-bit weights are dequantised once after loading.
        is_merged: Whether the adapter is added to the weights; else it is left unmerged.

    Returns:
        transformers' model, wrapped by PEFT where the adapter is unmerged.
    """
    network = _load_base(checkpoint, is_dequantised)
    if checkpoint.adapter is None:
        return network
    from peft import PeftModel

    wrapped = PeftModel.from_pretrained(network, checkpoint.adapter)
    return wrapped.merge_and_unload() if is_merged else wrapped


def _load_base(checkpoint: Checkpoint, is_dequantised: bool) -> Any:
    """The base in its precision; its own sampling settings and penalties are dropped."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    # That weights are dequantised is a part of the run's identity: no need to warn in each
    # notebook.
    logging.set_verbosity_error()
    getLogger("bitsandbytes").setLevel(ERROR)
    dtype = getattr(torch, checkpoint.arithmetic)
    quantisation = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    network = AutoModelForCausalLM.from_pretrained(
        checkpoint.path,
        dtype=dtype,
        device_map={"": checkpoint.device},
        quantization_config=quantisation if checkpoint.precision == "4bit" else None,
        use_safetensors=True,
        trust_remote_code=False,
    )
    if checkpoint.precision == "4bit" and is_dequantised:
        network = network.dequantize()
    network.generation_config = _make_greedy(checkpoint, network.generation_config.eos_token_id)
    return network


def _make_greedy(checkpoint: Checkpoint, ends: int | Sequence[int] | None) -> "GenerationConfig":
    """Greedy generation up to the config's end tokens, or to the one that the template writes.

    The model was trained to end its turns with the latter, which its config may lack.
    """
    from transformers import GenerationConfig

    tokenizer = checkpoint.tokenizer
    if ends is None:
        ends = tokenizer.eos_token_id
    stop_ids = [ends] if isinstance(ends, int) else list(ends or ())
    turn_end = tokenizer.convert_tokens_to_ids(checkpoint.turn_end)
    if turn_end not in stop_ids:
        stop_ids.append(turn_end)
    return GenerationConfig(
        do_sample=False,
        eos_token_id=stop_ids[0] if len(stop_ids) == 1 else stop_ids,
        pad_token_id=tokenizer.pad_token_id,
    )
