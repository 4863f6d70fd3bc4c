"""A checkpoint's model in memory. It knows texts and tokens; it knows no rows and no messages.

`load` makes a LoadedModel, and its `generate` is the one door to decoding: evaluation, parity and
the server go through it, so prompts that are too long and memory that runs out are dealt with there
and nowhere else. `transformers` and `bitsandbytes` do the work; they are imported when a model is
loaded, not before.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from logging import ERROR, getLogger
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.lots import Callbacks, Feed, Lot
from swaplib.rows import Generation

if TYPE_CHECKING:
    from swaplib.models.decoding import Answer, LogitsHook, OnToken, Sampler
    from swaplib.models.grammars import SchemaHook, Vocabulary

_OUT_OF_MEMORY = re.compile(
    "out of memory|can't allocate memory|not enough memory|bad_alloc|ALLOC_FAILED"
)


def load(
    checkpoint: Checkpoint, is_dequantised: bool | None = None, is_merged: bool | None = None
) -> "LoadedModel":
    """Load a checkpoint's model as its identity says, or as told.

    Args:
        checkpoint: What to load.
        is_dequantised: Whether 4-bit weights are dequantised once after loading, not anew in every
            step.
        is_merged: Whether the adapter is added to the weights; else it is applied beside them, as
            PEFT does it.

    Raises:
        FileNotFoundError: The checkpoint or the adapter is not there.
        ValueError: One of them is not whole, or the adapter cannot be added to the weights.
    """
    from swaplib.models import decoding

    checkpoint.check()
    if is_dequantised is None:
        is_dequantised = checkpoint.is_dequantised
    if is_merged is None:
        is_merged = is_dequantised and checkpoint.can_merge
    if is_merged and not checkpoint.can_merge:
        what = "changes lm_head or the embedding, or replaces a module"
        raise ValueError(f"the adapter at {checkpoint.adapter} {what}: it cannot be merged")
    if is_merged and not is_dequantised:
        raise ValueError(
            "an adapter is added to dequantised weights only: packed ones would round it away"
        )
    network = _load_weights(checkpoint, is_dequantised)
    if checkpoint.adapter:
        from peft import PeftModel

        network = PeftModel.from_pretrained(network, checkpoint.adapter)
        if is_merged:
            network = network.merge_and_unload()
    return LoadedModel(checkpoint, decoding.prepare(network).eval())


def _load_weights(checkpoint: Checkpoint, is_dequantised: bool) -> Any:
    """The base in its precision, set to greedy generation: its own sampling settings and penalties are dropped."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is dequantised is said in load, not in every notebook
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
    ends = network.generation_config.eos_token_id
    ends = (
        [checkpoint.tokenizer.eos_token_id]
        if ends is None
        else [ends]
        if isinstance(ends, int)
        else list(ends)
    )
    turn_end = checkpoint.tokenizer.convert_tokens_to_ids(checkpoint.turn_end)
    if (
        turn_end not in ends
    ):  # what the model was trained to end its turns with, whatever its config forgets
        ends.append(turn_end)
    network.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=ends[0] if len(ends) == 1 else ends,
        pad_token_id=checkpoint.tokenizer.pad_token_id,
    )
    return network


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint's model in memory; `load` makes it. `network` is transformers' model, perhaps wrapped by PEFT."""

    checkpoint: Checkpoint
    network: Any

    @property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.network.config.get_text_config().max_position_embeddings

    @property
    def stop_ids(self) -> set[int]:
        """The tokens that end an answer."""
        stop_ids = self.network.generation_config.eos_token_id
        return {stop_ids} if isinstance(stop_ids, int) else set(stop_ids)

    def generate(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        batch_size: int,
        on_token: "OnToken | None" = None,
        logits_hook: "LogitsHook | None" = None,
        sampler: "Sampler | None" = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Answer prompts, `batch_size` at once, the longest first, so that memory runs out early or never.

        Args:
            prompts: Texts as the checkpoint renders them.
            max_new_tokens: The limit of each answer, in tokens.
            batch_size: How many are in work at once. When memory runs out, half as many go on,
                which is said in one line.
            on_token: As for decoding.decode. A token is told once: a row that is begun again for
                want of memory takes the same tokens again, as far as they were told.
            logits_hook: As for decoding.decode.
            sampler: As for decoding.decode.

        Yields:
            The index of a prompt and its generation, as each ends. A prompt that leaves no room for
            its answer in the model's context is `truncated` with an empty output.

        Raises:
            RuntimeError: There is not enough memory for a single row.
        """
        encoded = [self.checkpoint.encode(text) for text in prompts]
        fitting = []
        for i, ids in enumerate(encoded):
            if len(ids) + max_new_tokens <= self.context:
                fitting.append(i)
            else:
                yield i, Generation("", "truncated", "context_length_exceeded", len(ids), 0, 0.0)
        fitting.sort(key=lambda i: len(encoded[i]), reverse=True)
        callbacks = Callbacks(on_token, logits_hook, sampler)
        lot = Lot(
            self.checkpoint,
            dict(enumerate(encoded)),
            dict.fromkeys(fitting, max_new_tokens),
            fitting,
        )
        yield from self._decode(lot, batch_size, callbacks)

    def follow(
        self,
        feed: Feed,
        batch_size: int,
        on_token: "OnToken",
        logits_hook: "LogitsHook | None" = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Answer what a feed brings, until it brings nothing and nothing is in work; arguments are those of generate.

        Yields:
            The index of a prompt and its generation, as each ends.
        """
        lot = Lot(self.checkpoint, {}, {}, [], feed)
        lot.take(batch_size)
        yield from self._decode(lot, batch_size, Callbacks(on_token, logits_hook, None))

    def _decode(
        self, lot: Lot, size: int, callbacks: Callbacks
    ) -> Iterator[tuple[int, Generation]]:
        """Decode the prompts that wait, in their order; when memory runs out, those not done are begun again."""
        import torch

        from swaplib.models import decoding

        while lot.waiting:
            rows = lot.begin()
            feed = lot if lot.feed else None
            try:
                asked = [lot.encoded[i] for i in rows], [lot.limits[i] for i in rows], size
                for answer in decoding.decode(
                    self.network, *asked, *callbacks.bind(rows), feed=feed
                ):
                    i, prompt_tokens = rows[answer.index], len(lot.encoded[rows[answer.index]])
                    lot.end(i)
                    callbacks.told.pop(i, None)
                    yield i, self._read(answer, prompt_tokens)
            except (
                RuntimeError,
                MemoryError,
            ) as error:  # torch tells of memory in both, and of much else in the first
                if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                    raise
                tried = min(size, len(lot.waiting))
                if tried == 1:
                    self._refuse(lot, error)
                else:
                    tqdm.write(
                        f"out of memory with {tried} row(s) at once: going on with {tried // 2}"
                    )
                size = max(1, tried // 2)
            if lot.waiting:
                torch.cuda.empty_cache()  # what the attempt held is free once its error is gone
            elif lot.feed:
                lot.take(size)

    def _refuse(self, lot: Lot, error: Exception) -> None:
        """One row alone does not fit: the end of a run, but only of that request where others come by themselves."""
        i = lot.waiting[0]
        refusal = RuntimeError(
            f"not enough memory on the {self.checkpoint.device} for one row of {len(lot.encoded[i])} tokens and an answer "
            f"of {lot.limits[i]}. Close other programs, lower max_new_tokens, or take a smaller model."
        )
        if lot.feed is None:
            raise refusal from error
        lot.end(i)
        lot.feed.refuse(i, refusal)

    def constrain(self, schemas: "Sequence[dict[str, Any] | None]") -> "SchemaHook":
        """The hook that binds the answer of each prompt to a JSON Schema; None leaves that prompt free.

        Raises:
            ValueError: A schema cannot bind the decoding.
        """
        from swaplib.models.grammars import SchemaHook

        return SchemaHook(lambda: self._vocabulary, schemas)

    @cached_property
    def _vocabulary(self) -> "Vocabulary":
        from swaplib.models.grammars import Vocabulary

        n_logits = self.network.get_output_embeddings().weight.shape[0]
        return Vocabulary(self.checkpoint.tokenizer, n_logits, sorted(self.stop_ids))

    def detokenise(self, ids: Sequence[int]) -> str:
        """The text of token ids; tokens that end an answer and control tokens are left out, and nothing else."""
        dropped = self.checkpoint.control_ids | self.stop_ids
        return self.checkpoint.tokenizer.decode(
            [i for i in ids if i not in dropped], skip_special_tokens=False
        )

    def _read(self, answer: "Answer", prompt_tokens: int) -> Generation:
        has_ended, output = answer.ids[-1] in self.stop_ids, self.detokenise(answer.ids)
        status = "truncated" if not has_ended else "ok" if output.strip() else "empty"
        reason = "stop" if has_ended else "length"
        counts, latency_ms = (prompt_tokens, len(answer.ids)), 1000 * answer.seconds
        return Generation(
            output, status, reason, *counts, latency_ms, None, *measure_logprobs(answer.logprobs)
        )


def measure_logprobs(logprobs: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the least of an answer's logprobs; None for both where the model's arithmetic gave no numbers."""
    if not all(map(isfinite, logprobs)):
        return None, None
    return fmean(logprobs), min(logprobs)
