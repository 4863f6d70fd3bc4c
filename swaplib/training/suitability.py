"""What `swap doctor` says of a checkpoint that loads: how its chats are written, can 04 train it.

For example:

    its template takes a system message; its template is filled in with enable_thinking false;
    04 can train it (qwen3)
"""

import json
from typing import TYPE_CHECKING

from swaplib.metrics import format_tool_call
from swaplib.models import templates
from swaplib.models.checkpoints import read_headers
from swaplib.models.conversion import find_untrained
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.training.sft import LINEAR_LAYERS

if TYPE_CHECKING:
    from swaplib.models.local_model import LoadedModel

# These are the forms of what is scored, trained and acted upon.
_SAMPLES = (
    format_tool_call("pour_tea", {"cups": 2}),
    '[{"name":"pour_tea","arguments":{"cups":2}}]',
    "<code>\nprint(2)\n</code>",
)


def describe_checkpoint(checkpoint: Checkpoint) -> list[str]:
    """How a checkpoint's chats are written and whether it can be trained, each in a few words."""
    options = {
        name: json.dumps(value)
        for name, value in templates.list_options(checkpoint.tokenizer).items()
    }
    said = [_describe_system(checkpoint)]
    if options:
        said.append(
            "its template is filled in with "
            + ", ".join(f"{name} {value}" for name, value in options.items())
        )
    if checkpoint.render(templates.TRIAL).rstrip().endswith("<think>"):
        said.append(
            "its template begins every answer with <think>, which nothing switches off: "
            "256 tokens may not be enough"
        )
    return [*said, describe_training(checkpoint)]


def _describe_system(checkpoint: Checkpoint) -> str:
    if checkpoint.folds_system:
        return (
            "its template has no place for a system message, so all models are asked with that "
            "text before the request"
        )
    return "its template takes a system message"


def describe_training(checkpoint: Checkpoint) -> str:
    """Whether 04 can train a checkpoint, which needs the layers that an adapter is put on."""
    config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    kind = config.get("model_type", "of unknown kind")
    names = read_headers(checkpoint.path)
    lacking = [layer for layer in LINEAR_LAYERS if not any(f".{layer}." in name for name in names)]
    if lacking:
        return f"04 cannot train it ({kind} has no {', '.join(lacking)})"
    return f"04 can train it ({kind})"


def check_tags(model: "LoadedModel") -> None:
    """Refuse a checkpoint whose token for a part of an answer's form was never trained.

    Raises:
        ValueError: Names the tokens, and says what to do.
    """
    checkpoint = model.checkpoint
    added = set(checkpoint.tokenizer.added_tokens_decoder) - checkpoint.control_ids
    written = sorted(added & {i for text in _SAMPLES for i in checkpoint.encode(text)})
    untrained = checkpoint.tokenizer.convert_ids_to_tokens(find_untrained(model.network, written))
    if untrained:
        raise ValueError(
            f"{checkpoint.path} has a token for {', '.join(untrained)} that no training has "
            "touched (its embedding is another token's, too): the model can hardly write it, nor "
            "does 04 train embeddings. Take another checkpoint, or a GGUF file of this one "
            "(`swap download --gguf`), where such a token is read as the text it is."
        )
