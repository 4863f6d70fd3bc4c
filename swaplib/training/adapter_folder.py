"""Writes a trained adapter to its folder, with its tokenizer and run card."""

from pathlib import Path
from typing import Any

from swaplib.files import replaced_folder, write_json
from swaplib.models.local_checkpoint import Checkpoint


def save_adapter(
    model: Any, base: Checkpoint, target: Path, card: dict[str, Any], is_compact: bool
) -> None:
    """Write adapter, tokenizer and card, all or nothing: a half-written adapter never loads.

    Args:
        model: A PEFT model.
        base: The checkpoint that the adapter was trained on.
        target: The adapter's folder; another adapter there is replaced.
        card: The content of `run_card.json`.
        is_compact: Write bfloat16 weights and no tokenizer.
    """
    import torch
    from safetensors.torch import load_file, save_file

    with replaced_folder(target) as built:
        # PEFT would write the checkpoint's path, which says nothing on another machine.
        model.peft_config["default"].base_model_name_or_path = base.path.name
        model.save_pretrained(built, save_embedding_layers=False)  # "auto" would ask the hub
        (built / "README.md").unlink(missing_ok=True)
        if is_compact:
            file = built / "adapter_model.safetensors"
            weights = {name: weight.to(torch.bfloat16) for name, weight in load_file(file).items()}
            save_file(weights, file)
        else:
            base.tokenizer.save_pretrained(built)
        write_json(built / "run_card.json", card)
