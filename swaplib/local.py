"""The local SLM: 4-bit weights, greedy decoding in batches, an optional adapter. It scores nothing and writes nothing.

`transformers` and `bitsandbytes` do the work; they are imported when a model is loaded, not before.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import ERROR, getLogger
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm

from swaplib import templates
from swaplib.checkpoints import check_checkpoint, count_parameters, hash_checkpoint, read_header, refuse_code
from swaplib.prompts import Message
from swaplib.rows import Generation

if TYPE_CHECKING:
    from swaplib.decoding import Answer

Precision = Literal["4bit", "float32", "bfloat16"]

_OF_A_LAYER = re.compile(r"\.\d+\..*\.lora_")
_OF_EMBEDDING = re.compile(r"\b(lm_head|embed_tokens)\b")
_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED")


@dataclass(frozen=True)
class LocalSLM:
    """A checkpoint in this process. It is loaded at the first generation, and only once.

    `precision="4bit"` is nf4 with double quantisation, float32 arithmetic on a CPU and bfloat16 on a GPU. Where there is
    room, the 4-bit weights are dequantised once after loading, not anew in every step, and the adapter, a PEFT folder, is
    added to them, not applied beside them, if it may be. `batch_size` is how many rows are in work at once.
    """

    path: Path
    adapter: Path | None = None
    precision: Precision = "4bit"
    batch_size: int = 64

    def check(self) -> None:
        """Raise FileNotFoundError or ValueError when the checkpoint or the adapter is not there or not whole."""
        check_checkpoint(self.path)
        if self.adapter is not None and not (self.adapter / "adapter_config.json").is_file():
            raise FileNotFoundError(f"no adapter at {self.adapter}. Run notebooks/04_finetune.ipynb first.")
        if self.adapter is not None:
            refuse_code(self.adapter)
            config = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf-8"))
            if (kind := config.get("peft_type", "LORA")) != "LORA":
                raise ValueError(f"the adapter at {self.adapter} is of the kind {kind}; expected LORA")
            base = Path(config.get("base_model_name_or_path") or "").name
            if base.lower() != self.path.name.lower():
                raise ValueError(
                    f"the adapter at {self.adapter} belongs to {base or 'no base'}, not to {self.path.name}"
                )

    def identity(self) -> dict[str, Any]:
        """What makes two runs of this model the same run: name, weights, tokenizer and template, adapter, arithmetic."""
        self.check()
        return {
            "model": self.path.name,
            "checkpoint_sha256": hash_checkpoint(self.path),
            "adapter_sha256": hash_checkpoint(self.adapter) if self.adapter else None,
            "quantisation": "nf4, double quantisation" if self.precision == "4bit" else None,
            "arithmetic": "float32" if self._is_float32 else "bfloat16",
            "is_dequantised": self.is_dequantised if self.precision == "4bit" else None,
            "template_options": templates.list_options(self.tokenizer),
            "is_merged": self._can_merge and self.is_dequantised if self.adapter else None,
        }

    @cached_property
    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, padding on the left."""
        from transformers import AutoTokenizer

        check_checkpoint(self.path)
        options = {"padding_side": "left", "clean_up_tokenization_spaces": False, "trust_remote_code": False}
        tokenizer = AutoTokenizer.from_pretrained(self.path, **options)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    @cached_property
    def device(self) -> str:
        """`cuda` where there is a GPU, else `cpu`."""
        return find_device()

    @cached_property
    def is_dequantised(self) -> bool:
        """Whether the weights take as many bytes each as the arithmetic's numbers.

        Always on a CPU; a 4-bit model on a GPU when two bytes for each weight leave half of the GPU's memory. It is known
        before the model is loaded, which is then loaded so.
        """
        if self.precision != "4bit" or self.device == "cpu":
            return True
        import torch

        return 4 * count_parameters(self.path) < torch.cuda.mem_get_info()[1]

    @cached_property
    def _can_merge(self) -> bool:
        """Whether the adapter may be added to the weights: it has LoRA weights of numbered layers and no others.

        lm_head may share its weights with the embedding, which must not change with it; a module that was trained whole
        replaces its own. What the adapter has weights for is read from its file: its config may name modules by a pattern.
        """
        names = read_header(self.adapter / "adapter_model.safetensors") if self.adapter else ()
        return all(_OF_A_LAYER.search(name) and not _OF_EMBEDDING.search(name) for name in names)

    @property
    def _is_float32(self) -> bool:
        return self.precision == "float32" or (self.precision == "4bit" and self.device == "cpu")

    @cached_property
    def model(self) -> Any:
        """The loaded model, ready for greedy generation: its own sampling settings and penalties are dropped."""
        return self._load()

    def load_merged(self) -> Any:
        """A model of its own: the 4-bit weights as numbers of the arithmetic's type, the adapter added to them.

        Raises:
            ValueError: The adapter cannot be added to weights.
        """
        self.check()
        if not self._can_merge:
            raise ValueError(
                f"the adapter at {self.adapter} changes lm_head or the embedding, or replaces a module: it cannot be merged"
            )
        return self._load(is_dequantised=True)

    def _load(self, is_dequantised: bool | None = None) -> Any:
        """Load the model, as is_dequantised says or as told."""
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
        from transformers.utils import logging

        from swaplib import decoding

        self.check()
        logging.disable_progress_bar()
        logging.set_verbosity_error()  # what is dequantised is said above, not in every notebook
        getLogger("bitsandbytes").setLevel(ERROR)
        dtype = torch.float32 if self._is_float32 else torch.bfloat16
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
        model = AutoModelForCausalLM.from_pretrained(
            self.path,
            dtype=dtype,
            device_map={"": self.device},
            quantization_config=quantisation if self.precision == "4bit" else None,
            use_safetensors=True,
            trust_remote_code=False,
        )
        is_dequantised = self.is_dequantised if is_dequantised is None else is_dequantised
        if self.precision == "4bit" and is_dequantised:
            model = model.dequantize()
        eos = model.generation_config.eos_token_id
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=self.tokenizer.eos_token_id if eos is None else eos,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        if self.adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, self.adapter)
            if is_dequantised and self._can_merge:
                model = model.merge_and_unload()
        return decoding.prepare(model).eval()

    def generate(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int
    ) -> Iterator[tuple[int, Generation]]:
        """Answer conversations, `batch_size` at once, the longest first, so that memory runs out early or never.

        Args:
            conversations: Messages of each row, as build_messages makes them.
            max_new_tokens: The limit of each answer, in tokens.

        Yields:
            The index of a conversation and its generation, as each ends. A prompt that leaves no room for its answer in the
            model's context is `truncated` with an empty output. When memory runs out, half as many rows go on at once,
            which is said in one line.

        Raises:
            RuntimeError: There is not enough memory for a single row.
        """
        if not conversations:
            return  # nothing to ask, so nothing to load
        import torch

        prompts = [self._encode(self.render(messages)) for messages in conversations]
        lengths = [len(prompt) for prompt in prompts]
        room = self.context - max_new_tokens
        for i, length in enumerate(lengths):
            if length > room:
                yield i, Generation("", "truncated", "context_length_exceeded", length, 0, 0.0)
        waiting = sorted((i for i, n in enumerate(lengths) if n <= room), key=lambda i: lengths[i], reverse=True)
        size = self.batch_size
        while waiting:
            done = set()
            try:
                for k, generation in self._decode([prompts[i] for i in waiting], max_new_tokens, size):
                    done.add(waiting[k])
                    yield waiting[k], generation
            except (RuntimeError, MemoryError) as error:  # torch tells of memory in both, and of much else in the first
                if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                    raise
                tried = min(size, len(waiting))
                size = tried // 2
                if size == 0:
                    longest = next(lengths[i] for i in waiting if i not in done)
                    raise RuntimeError(
                        f"not enough memory on the {self.device} for one row of {longest} tokens and an answer "
                        f"of {max_new_tokens}. Close other programs, lower max_new_tokens, or take a smaller model."
                    ) from error
                tqdm.write(f"out of memory with {tried} row(s) at once: going on with {size}")
            if waiting := [i for i in waiting if i not in done]:  # what the attempt held is free once its error is gone
                torch.cuda.empty_cache()

    @property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.model.config.get_text_config().max_position_embeddings

    def count_tokens(self, text: str) -> int:
        """The length of a rendered prompt, in tokens."""
        return len(self._encode(text))

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def render(self, messages: Sequence[Message], has_generation_prompt: bool = True) -> str:
        """The text a model is prompted with: the checkpoint's own chat template, up to where the answer begins.

        Without the generation prompt it is the text of the messages alone, their answers among them.
        """
        return templates.render(self.tokenizer, messages, has_generation_prompt)

    def generate_batch(
        self, texts: Sequence[str], max_new_tokens: int, on_token: Callable[[int, int], None] | None = None
    ) -> list[Generation]:
        """Answer rendered prompts in one batch.

        Args:
            texts: Rendered prompts; one batch of len(texts) rows.
            max_new_tokens: The limit of each answer, in tokens.
            on_token: Called with a row's index and its next token's id, as they come.

        Raises:
            ValueError: A prompt and its answer would not fit into the model's context.
        """
        prompts = [self._encode(text) for text in texts]
        width = max(map(len, prompts))
        if width + max_new_tokens > self.context:
            raise ValueError(
                f"the longest prompt has {width} tokens; with max_new_tokens={max_new_tokens} it would not fit into the "
                f"model's context of {self.context}. Shorten the prompt or lower max_new_tokens."
            )
        answers = dict(self._decode(prompts, max_new_tokens, len(prompts), on_token))
        return [answers[i] for i in range(len(prompts))]

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        size: int,
        on_token: Callable[[int, int], None] | None = None,
    ) -> Iterator[tuple[int, Generation]]:
        from swaplib import decoding

        for answer in decoding.decode(self.model, prompts, max_new_tokens, size, on_token):
            yield answer.index, self._read(answer, len(prompts[answer.index]))

    @cached_property
    def control_ids(self) -> frozenset[int]:
        """The tokens that are never text: bos, eos and pad, and the special ones that look like a chat template's own.

        A tokenizer may mark other tokens as special, such as the tags of a tool call: those are what the model said.
        """
        added = self.tokenizer.added_tokens_decoder.items()
        control = {i for i, token in added if token.special and templates.CONTROL_TOKENS.fullmatch(token.content)}
        named = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        return frozenset(control | {i for i in named if i is not None})

    @property
    def _end_ids(self) -> set[int]:
        ends = self.model.generation_config.eos_token_id
        return {ends} if isinstance(ends, int) else set(ends)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids; tokens that end an answer and control tokens are left out, and nothing else."""
        dropped = self.control_ids | self._end_ids
        return self.tokenizer.decode([i for i in ids if i not in dropped], skip_special_tokens=False)

    def _read(self, answer: "Answer", prompt_tokens: int) -> Generation:
        has_ended, output = answer.ids[-1] in self._end_ids, self.decode(answer.ids)
        status = "truncated" if not has_ended else "ok" if output.strip() else "empty"
        reason = "stop" if has_ended else "length"
        counts, latency_ms = (prompt_tokens, len(answer.ids)), 1000 * answer.seconds
        return Generation(output, status, reason, *counts, latency_ms, None, *measure_logprobs(answer.logprobs))


def measure_chats(slm: LocalSLM, chats: Iterable[Sequence[Message]], has_generation_prompt: bool = True) -> list[int]:
    """The lengths of rendered chats in tokens: of prompts, or without the generation prompt of whole chats."""
    return [slm.count_tokens(slm.render(messages, has_generation_prompt)) for messages in chats]


def find_device() -> str:
    """`cuda` where there is a GPU, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def find_full_precision() -> Precision:
    """What a checkpoint is loaded in when it is not quantised: bfloat16 on a GPU, float32 on a CPU."""
    return "float32" if find_device() == "cpu" else "bfloat16"


def measure_logprobs(logprobs: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the least of an answer's logprobs; None for both where the model's arithmetic gave no numbers."""
    if not all(map(isfinite, logprobs)):
        return None, None
    return fmean(logprobs), min(logprobs)
