"""A checkpoint of Qwen2.5-7B's shape with random weights.

Random weights cost what trained ones cost and answer nonsense, so it serves measurements of speed
and memory, and no scores.
"""

import tempfile
from pathlib import Path

from swaplib.models.local_checkpoint import Checkpoint
from swaplib.settings import load_settings

SEVEN_B = Path(tempfile.gettempdir()) / "qwen2.5-7b-shaped-random"
SHAPE = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
}


def make_7b() -> str:
    """Write the checkpoint unless it exists; returns its folder.

    Its tokenizer is the packaged checkpoint's, which has a smaller vocabulary.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig, Qwen2Config

    if (SEVEN_B / "model.safetensors").is_file():
        return str(SEVEN_B)
    tokenizer = Checkpoint(load_settings().slm_model_path).tokenizer
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(
            Qwen2Config(**SHAPE, **ids), dtype=torch.bfloat16, trust_remote_code=False
        )
    model.generation_config = GenerationConfig(**ids)
    tokenizer.save_pretrained(SEVEN_B)
    model.save_pretrained(SEVEN_B)
    return str(SEVEN_B)
