"""A checkpoint's model in memory. It knows texts and tokens; it knows no rows and no messages.

`load` makes a LoadedModel, and its `generate` is the one door to decoding: evaluation, parity and
the server go through it, so prompts that are too long and memory that runs out are dealt with there
and nowhere else.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isfinite
from statistics import fmean
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.lots import Callbacks, Feed, Lot
from swaplib.models.weights import load_network
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
    """Load a checkpoint's model as its identity says, or as the arguments say.

    Args:
        checkpoint: What to load.
        is_dequantised: Whether 4-bit weights are dequantised once after loading, not in every step.
        is_merged: Whether the adapter is added to the weights; else it is applied unmerged, as PEFT
            does it.

    Raises:
        FileNotFoundError: The checkpoint or the adapter is missing.
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
    network = load_network(checkpoint, is_dequantised, is_merged)
    return LoadedModel(checkpoint, decoding.prepare(network).eval())


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint's model in memory; `network` is transformers' model, perhaps wrapped by PEFT."""

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
        """Answer prompts, `batch_size` at once, the longest first: memory runs out early or never.

        Args:
            prompts: Texts as the checkpoint renders them.
            max_new_tokens: The longest answer, in tokens.
            batch_size: The most prompts in flight. When memory runs out it is halved, which is said
                in one line.
            on_token: As for decoding.decode. A token is streamed once: a row that is begun again
                for want of memory takes the same tokens again, as far as they were streamed.
            logits_hook: As for decoding.decode.
            sampler: As for decoding.decode.

        Yields:
            The index of a prompt and its generation, as each ends. A prompt that leaves no room for
            its answer in the model's context is `truncated` with an empty output.

        Raises:
            RuntimeError: There is not enough memory for a single row.
        """
        encoded = dict(enumerate(map(self.checkpoint.encode, prompts)))
        too_long = [i for i, ids in encoded.items() if len(ids) + max_new_tokens > self.context]
        for i in too_long:
            n = len(encoded[i])
            yield i, Generation("", "truncated", "context_length_exceeded", n, 0, 0.0)
        fitting = sorted(encoded.keys() - too_long, key=lambda i: (-len(encoded[i]), i))
        callbacks = Callbacks(on_token, logits_hook, sampler)
        longest = dict.fromkeys(fitting, max_new_tokens)
        lot = Lot(self.checkpoint, callbacks, encoded, longest, fitting)
        yield from self._decode(lot, batch_size)

    def follow(
        self,
        feed: Feed,
        batch_size: int,
        on_token: "OnToken",
        logits_hook: "LogitsHook | None" = None,
    ) -> Iterator[tuple[int, Generation]]:
        """Answer what a feed brings, until it brings nothing and nothing is in flight.

        The other arguments are those of generate.

        Yields:
            The index of a prompt and its generation, as each ends.
        """
        lot = Lot(self.checkpoint, Callbacks(on_token, logits_hook), feed=feed)
        lot.take(batch_size)
        yield from self._decode(lot, batch_size)

    def _decode(self, lot: Lot, size: int) -> Iterator[tuple[int, Generation]]:
        """Decode the prompts that wait, in their order.

        When memory runs out, those without an answer are begun again with half the batch size.
        """
        import torch

        while lot.waiting:
            try:
                yield from self._attempt(lot, size)
            except (RuntimeError, MemoryError) as error:  # torch reports memory in both
                if not _is_out_of_memory(error):
                    raise
                n = min(size, len(lot.waiting))
                if n == 1:
                    self._refuse(lot, error)
                else:
                    tqdm.write(f"out of memory with {n} row(s) at once: going on with {n // 2}")
                size = max(1, n // 2)
            if lot.waiting:
                torch.cuda.empty_cache()  # what the attempt held is free once its error is gone
            elif lot.feed:
                lot.take(size)

    def _attempt(self, lot: Lot, size: int) -> Iterator[tuple[int, Generation]]:
        """Decode the prompts that wait, and those that a feed brings meanwhile."""
        from swaplib.models import decoding

        rows = lot.begin()
        answers = decoding.decode(
            self.network,
            [lot.encoded[i] for i in rows],
            [lot.max_new_tokens[i] for i in rows],
            size,
            *lot.callbacks.bind(rows),
            feed=lot if lot.feed else None,
        )
        for answer in answers:
            i = rows[answer.index]
            prompt_tokens = len(lot.encoded[i])
            lot.end(i)
            yield i, self._read(answer, prompt_tokens)

    def _refuse(self, lot: Lot, error: Exception) -> None:
        """Refuse the first prompt, which alone does not fit into memory.

        That ends a run; where requests come by themselves, only that request.
        """
        i = lot.waiting[0]
        refusal = RuntimeError(
            f"not enough memory on the {self.checkpoint.device} for one row of "
            f"{len(lot.encoded[i])} tokens and an answer of {lot.max_new_tokens[i]}. Close other "
            "programs, lower max_new_tokens, or take a smaller model."
        )
        if lot.feed is None:
            raise refusal from error
        lot.end(i)
        lot.feed.refuse(i, refusal)

    def constrain(self, schemas: Sequence[dict[str, Any] | None]) -> "SchemaHook":
        """The hook that binds each prompt's answer to its JSON Schema; None leaves a prompt free.

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
        """The text of token ids, without tokens that end an answer and control tokens."""
        dropped = self.checkpoint.control_ids | self.stop_ids
        return self.checkpoint.tokenizer.decode(
            [i for i in ids if i not in dropped], skip_special_tokens=False
        )

    def _read(self, answer: "Answer", prompt_tokens: int) -> Generation:
        """The generation that an answer is."""
        has_ended = answer.ids[-1] in self.stop_ids
        output = self.detokenise(answer.ids)
        mean_logprob, min_logprob = measure_logprobs(answer.logprobs)
        return Generation(
            output=output,
            status="truncated" if not has_ended else "ok" if output.strip() else "empty",
            finish_reason="stop" if has_ended else "length",
            prompt_tokens=prompt_tokens,
            completion_tokens=len(answer.ids),
            latency_ms=1000 * answer.seconds,
            mean_logprob=mean_logprob,
            min_logprob=min_logprob,
        )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether an error reports that memory ran out; a RuntimeError may report anything."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def measure_logprobs(logprobs: Sequence[float]) -> tuple[float | None, float | None]:
    """The mean and the least of logprobs; None for both where one of them is no finite number."""
    if not all(map(isfinite, logprobs)):
        return None, None
    return fmean(logprobs), min(logprobs)
