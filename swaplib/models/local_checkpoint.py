"""Describes a checkpoint in a folder: what identifies it, its tokenizer, how it will be loaded.

Nothing here loads weights: whatever is said of them is read from the headers of their files, so a
run's identity is known before its model is loaded, and the model is then loaded as its identity
says (local_model.load).
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from swaplib.models import templates
from swaplib.models.checkpoints import (
    check_checkpoint,
    count_parameters,
    hash_checkpoint,
    read_header,
    refuse_code,
)
from swaplib.prompts import Message

Precision = Literal["4bit", "float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("4bit", "float32", "bfloat16")

SEQUENCE_LENGTH = 2048  # the longest chat that a training takes, in tokens
_OF_A_LAYER = re.compile(r"\.\d+\..*\.lora_")
_OF_EMBEDDING = re.compile(r"\b(lm_head|embed_tokens)\b")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, perhaps with an adapter, and the precision to load it in.

    Attributes:
        path: The checkpoint's folder.
        adapter: The folder of a PEFT adapter that was trained on it, or None.
        precision: `4bit` is nf4 with double quantisation, float32 arithmetic on a CPU and bfloat16
            on a GPU.
    """

    path: Path
    adapter: Path | None = None
    precision: Precision = "4bit"

    def check(self) -> None:
        """Raise FileNotFoundError or ValueError unless checkpoint and adapter are there, whole."""
        check_checkpoint(self.path)
        if self.adapter is not None:
            self._check_adapter(self.adapter)

    def _check_adapter(self, adapter: Path) -> None:
        """Raise FileNotFoundError or ValueError unless the adapter is there, safe, of this base."""
        file = adapter / "adapter_config.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"no adapter at {adapter}. Run notebooks/04_finetune.ipynb first."
            )
        refuse_code(adapter)
        config = json.loads(file.read_text(encoding="utf-8"))
        if (kind := config.get("peft_type", "LORA")) != "LORA":
            raise ValueError(f"the adapter at {adapter} is of the kind {kind}; expected LORA")
        if config.get("megatron_config"):  # PEFT imports the module that it names
            raise ValueError(
                f"the adapter at {adapter} names code to import (megatron_config); no code is run"
            )
        base = Path(config.get("base_model_name_or_path") or "").name
        if base.lower() != self.path.name.lower():
            raise ValueError(
                f"the adapter at {adapter} belongs to {base or 'no base'}, not to {self.path.name}"
            )

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run: its files and its arithmetic."""
        self.check()
        return {
            "model": self.path.name,
            "checkpoint_sha256": hash_checkpoint(self.path),
            "adapter_sha256": hash_checkpoint(self.adapter) if self.adapter else None,
            "quantisation": "nf4, double quantisation" if self.precision == "4bit" else None,
            "arithmetic": self.arithmetic,
            "is_dequantised": self.is_dequantised if self.precision == "4bit" else None,
            "template_options": templates.list_options(self.tokenizer),
            "is_merged": self.can_merge and self.is_dequantised if self.adapter else None,
        } | ({"template": templates.FOLDED} if self.folds_system else {})

    def check_template(self) -> None:
        """Raise ValueError when the chat template cannot write a system text and a request."""
        from jinja2 import TemplateError

        try:
            self.render(templates.TRIAL)
        except (TemplateError, TypeError) as error:
            raise ValueError(
                f"the chat template of {self.path} cannot write a request ({error}). Bring the "
                "checkpoint of an instruct or chat model, with its own template."
            ) from None

    @cached_property
    def folds_system(self) -> bool:
        """Whether the template has no place for a system message.

        Its text then goes before the first request. It is read from the template's file: it must be
        known before any model is asked, and needs no tokenizer.
        """
        return not templates.takes_system(templates.read_template(self.path))

    @cached_property
    def turn_end(self) -> str:
        """The token that ends an answer, as the chat template writes it."""
        return templates.find_turn_end(self.tokenizer)

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, padding on the left."""
        from transformers import AutoTokenizer

        check_checkpoint(self.path)
        tokenizer = AutoTokenizer.from_pretrained(
            self.path,
            trust_remote_code=False,
            padding_side="left",
            clean_up_tokenization_spaces=False,
        )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The tokens that are never text.

        These are bos, eos and pad, and special ones that the chat template writes around plain
        turns or that look as such do. A tokenizer may mark other tokens as special, such as the
        tags of a tool call: those are what the model said.
        """
        tokenizer = self.tokenizer
        added = tokenizer.added_tokens_decoder.items()
        special = {i: token.content for i, token in added if token.special}
        markers = templates.find_markers(tokenizer)
        control = {
            i
            for i, text in special.items()
            if text in markers or templates.CONTROL_TOKENS.fullmatch(text)
        }
        named = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
        return frozenset(control | {i for i in named if i is not None})

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        has_generation_prompt: bool = True,
        tools: Sequence[dict[str, Any]] = (),
    ) -> str:
        """The text of a prompt by the checkpoint's chat template, up to where the answer begins.

        Without the generation prompt it is the text of the messages alone, their answers among
        them. Tools are those that the model may call, as the OpenAI API has them.
        """
        return templates.render(self.tokenizer, messages, has_generation_prompt, tools)

    def encode(self, text: str) -> list[int]:
        """The token ids of a rendered prompt, to which nothing is added."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def count_tokens(self, text: str) -> int:
        """The length of a rendered prompt, in tokens."""
        return len(self.encode(text))

    @cached_property
    def device(self) -> str:
        """`cuda` where there is a GPU, else `cpu`."""
        return read_device()

    @property
    def arithmetic(self) -> Literal["float32", "bfloat16"]:
        """The type of the numbers that the model computes with."""
        if self.precision == "4bit":
            return "float32" if self.device == "cpu" else "bfloat16"
        return self.precision

    @cached_property
    def is_dequantised(self) -> bool:
        """Whether the weights take as many bytes each as the arithmetic's numbers.

        Always on a CPU; a 4-bit model on a GPU when two bytes for each weight leave half of the
        GPU's memory. It is known before the model is loaded, which is then loaded so.
        """
        if self.precision != "4bit" or self.device == "cpu":
            return True
        import torch

        return 4 * count_parameters(self.path) < torch.cuda.mem_get_info()[1]

    @cached_property
    def can_merge(self) -> bool:
        """Whether the adapter may be merged: it has LoRA weights of numbered layers and no others.

        lm_head may share its weights with the embedding, which must not change with it; a module
        that was trained whole replaces its own. What the adapter has weights for is read from its
        file: its config may name modules by a pattern.
        """
        names = read_header(self.adapter / "adapter_model.safetensors") if self.adapter else ()
        return all(_OF_A_LAYER.search(name) and not _OF_EMBEDDING.search(name) for name in names)


def find_checkpoint(path: Path, adapter: Path | None, precision: str) -> Checkpoint:
    """The checkpoint in a folder; raises ValueError for a precision that is none."""
    for known in PRECISIONS:
        if known == precision:
            return Checkpoint(path, adapter, known)
    raise ValueError(f"--dtype {precision}: expected float32, bfloat16 or 4bit")


def read_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def choose_full_precision() -> Precision:
    """The precision of a checkpoint that is not quantised: bfloat16 on a GPU, else float32."""
    return "float32" if read_device() == "cpu" else "bfloat16"


def measure_chats(
    base: Checkpoint, chats: Iterable[Sequence[Message]], has_generation_prompt: bool = True
) -> list[int]:
    """The lengths of rendered chats in tokens, with the generation prompt or without."""
    return [base.count_tokens(base.render(messages, has_generation_prompt)) for messages in chats]
