"""The local SLM: 4-bit weights, greedy decoding in batches, an optional adapter. It scores nothing and writes nothing.

`transformers` and `bitsandbytes` do the work; they are imported when a model is loaded, not before.
"""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import ERROR, getLogger
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from swaplib.checkpoints import check_checkpoint, hash_checkpoint, refuse_code
from swaplib.prompts import Message
from swaplib.rows import Generation

Precision = Literal["4bit", "float32", "bfloat16"]

_OUT_OF_MEMORY = re.compile("out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED")


@dataclass(frozen=True)
class LocalSLM:
    """A checkpoint in this process. It is loaded at the first generation, and only once.

    `precision="4bit"` is nf4 with double quantisation, bfloat16 arithmetic on a GPU. On a CPU the 4-bit weights are
    dequantised once after loading, because a CPU would do it anew in every step: the same 4-bit weights, float32
    arithmetic. `adapter` is a PEFT folder.
    """

    path: Path
    adapter: Path | None = None
    precision: Precision = "4bit"
    batch_size: int = 16

    def check(self) -> None:
        """Raise FileNotFoundError or ValueError when the checkpoint or the adapter is not there or not whole."""
        check_checkpoint(self.path)
        if self.adapter is not None and not (self.adapter / "adapter_config.json").is_file():
            raise FileNotFoundError(f"no adapter at {self.adapter}. Run notebooks/04_finetune.ipynb first.")
        if self.adapter is not None:
            refuse_code(self.adapter)
            config = json.loads((self.adapter / "adapter_config.json").read_text(encoding="utf-8"))
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
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def _is_float32(self) -> bool:
        return self.precision == "float32" or (self.precision == "4bit" and self.device == "cpu")

    @cached_property
    def model(self) -> Any:
        """The loaded model, ready for greedy generation: its own sampling settings and penalties are dropped."""
        return self._load(is_dequantised=self.device == "cpu")

    def load_merged(self) -> Any:
        """A model of its own: the 4-bit weights as numbers of the arithmetic's type, the adapter added to them."""
        return self._load(is_dequantised=True).merge_and_unload()

    def _load(self, is_dequantised: bool) -> Any:
        import torch
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
        from transformers.utils import logging

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
        return model.eval()

    def generate(
        self, conversations: Sequence[Sequence[Message]], max_new_tokens: int
    ) -> Iterator[tuple[int, Generation]]:
        """Answer conversations in batches of similar length, the longest first, so that memory runs out early or never.

        Args:
            conversations: Messages of each row, as build_messages makes them.
            max_new_tokens: The limit of each answer, in tokens.

        Yields:
            The index of a conversation and its generation, batch by batch. A prompt that leaves no room for its answer in
            the model's context is `truncated` with an empty output. A batch that does not fit into memory is halved, which
            is said in one line.

        Raises:
            RuntimeError: There is not enough memory for a single row.
        """
        if not conversations:
            return  # nothing to ask, so nothing to load
        texts = [self.render(messages) for messages in conversations]
        lengths = [self.count_tokens(text) for text in texts]
        room = self.context - max_new_tokens
        for i, length in enumerate(lengths):
            if length > room:
                yield i, Generation("", "truncated", "context_length_exceeded", length, 0, 0.0)
        order = sorted((i for i, n in enumerate(lengths) if n <= room), key=lambda i: lengths[i], reverse=True)
        size = self.batch_size
        while batch := order[:size]:
            answers = self._answer_if_it_fits([texts[i] for i in batch], max_new_tokens)
            if answers is None:
                size = len(batch) // 2
                tqdm.write(f"out of memory with {len(batch)} row(s) at once: going on with {size}")
                continue
            yield from zip(batch, answers, strict=True)
            order = order[size:]

    def _answer_if_it_fits(self, texts: list[str], max_new_tokens: int) -> list[Generation] | None:
        """Answer a batch; None when memory runs out, and what the attempt held is free again."""
        import torch

        try:
            return self.generate_batch(texts, max_new_tokens)
        except (RuntimeError, MemoryError) as error:  # torch tells of memory in both, and of much else in the first
            if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                raise
            if len(texts) == 1:
                raise RuntimeError(
                    f"not enough memory on the {self.device} for one row of {self.count_tokens(texts[0])} tokens and an "
                    f"answer of {max_new_tokens}. Close other programs, lower max_new_tokens, or take a smaller model."
                ) from error
        torch.cuda.empty_cache()
        return None

    @property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.model.config.get_text_config().max_position_embeddings

    def count_tokens(self, text: str) -> int:
        """The length of a rendered prompt, in tokens."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def render(self, messages: Sequence[Message]) -> str:
        """The text a model is prompted with: the checkpoint's own chat template, up to where the answer begins."""
        return self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)

    def generate_batch(
        self, texts: Sequence[str], max_new_tokens: int, on_tokens: Callable[[list[int]], None] | None = None
    ) -> list[Generation]:
        """Answer rendered prompts in one batch.

        Args:
            texts: Rendered prompts; one batch of len(texts) rows.
            max_new_tokens: The limit of each answer, in tokens.
            on_tokens: Called after each step with the next token's id of every row; rows that have ended get padding.

        Raises:
            ValueError: A prompt and its answer would not fit into the model's context.
        """
        import torch

        start = time.perf_counter()
        inputs = self.tokenizer(list(texts), return_tensors="pt", padding=True, add_special_tokens=False).to(
            self.device
        )
        width = inputs["input_ids"].shape[1]
        if width + max_new_tokens > self.context:
            raise ValueError(
                f"the longest prompt has {width} tokens; with max_new_tokens={max_new_tokens} it would not fit into the "
                f"model's context of {self.context}. Shorten the prompt or lower max_new_tokens."
            )
        with torch.inference_mode():
            streamer = _StepStreamer(on_tokens) if on_tokens else None
            tokens = self.model.generate(**inputs, max_new_tokens=max_new_tokens, streamer=streamer)
        latency_ms = (time.perf_counter() - start) * 1000
        asked = inputs["attention_mask"].sum(dim=1).tolist()
        return [self._read(row[width:].tolist(), n, latency_ms) for row, n in zip(tokens, asked, strict=True)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, special tokens left out."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def _read(self, ids: list[int], prompt_tokens: int, latency_ms: float) -> Generation:
        ends = self.model.generation_config.eos_token_id
        ends = {ends} if isinstance(ends, int) else set(ends)
        length = next((i for i, token in enumerate(ids) if token in ends), None)
        output = self.decode(ids[:length])
        status = "truncated" if length is None else "ok" if output.strip() else "empty"
        reason = "length" if length is None else "stop"
        return Generation(output, status, reason, prompt_tokens, len(ids) if length is None else length + 1, latency_ms)


class _StepStreamer:
    """What transformers calls a streamer, for batches: it hands on each step's tokens."""

    def __init__(self, on_tokens: Callable[[list[int]], None]):
        self.on_tokens, self.has_prompt = on_tokens, False

    def put(self, value: Any) -> None:
        """Take the prompt first, then one token of each row at a time."""
        if self.has_prompt:
            self.on_tokens(value.tolist())
        self.has_prompt = True

    def end(self) -> None:
        """Nothing is held back, so nothing is left to do."""
