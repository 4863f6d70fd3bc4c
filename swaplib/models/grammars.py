"""Decoding bound to a JSON Schema, over llguidance: only tokens that can become a valid answer.

It is a hook of the decoder (decoding.py) and knows token ids and schemas, no rows and no messages.
With the schema of {"days": 2}, and as the answer so far `{"days":`, the tokens that may come next
are those that begin a space or a number:

    logits        3.1  Rome    2.7  ` "`    1.9  ` 2`    …
    after it     -inf         -inf          1.9  ` 2`    …
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher
    from llguidance._lib import JsonCompileOptions

# Where JSON allows white space: one space, as most training data have it, or none. With any white
# space a model may write it for ever. (A separator that must hold a space is more than llguidance
# 1.9 can follow with some tokenizers.)
LAYOUT: "JsonCompileOptions" = {"whitespace_pattern": "[ ]?"}
KEPT = 256  # schemas that stay compiled


def name_library() -> str:
    """The library that bound the decoding, and its version: a part of what a run was."""
    return f"llguidance {version('llguidance')}"


class Vocabulary:
    """What llguidance knows of a tokenizer; made once, since it takes about a second."""

    def __init__(self, tokenizer: Any, n_logits: int, stop_ids: Sequence[int]):
        from llguidance import LLExecutor
        from llguidance.hf import from_tokenizer

        self.n_logits, self.stop_ids = n_logits, list(stop_ids)
        self.tokens = from_tokenizer(tokenizer, n_vocab=n_logits, eos_token=list(stop_ids))
        self.executor = LLExecutor()
        self._compile_text = lru_cache(KEPT)(self._compile_uncached)

    def compile(self, schema: dict[str, Any]) -> "LLMatcher":
        """The matcher of a schema at its beginning, to be copied; the last schemas stay compiled.

        Raises:
            ValueError: The schema is none, or asks for something that cannot be decoded.
        """
        try:
            return self._compile_text(json.dumps(schema))
        except RecursionError:
            raise ValueError(
                "this JSON Schema cannot bind the decoding: it is nested too deeply"
            ) from None

    def _compile_uncached(self, schema: str) -> "LLMatcher":
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(schema, overrides=LAYOUT)
        if problem := LLMatcher.validate_grammar(grammar, self.tokens):
            raise ValueError(
                f"this JSON Schema cannot bind the decoding: {problem.splitlines()[0]}"
            )
        return LLMatcher(self.tokens, grammar)


class SchemaHook:
    """A logits hook that lets each prompt's next token be only one that its schema allows.

    A prompt whose schema is None is free. Equal schemas are compiled once. An answer that its
    grammar can follow no further (its limits were passed) is made to end there, so that the others
    continue; `problems` says why, by the prompt's index.
    """

    def __init__(
        self, find_vocabulary: Callable[[], Vocabulary], schemas: Sequence[dict[str, Any] | None]
    ):
        self._find_vocabulary = find_vocabulary  # not called while every prompt is free
        self.problems: dict[int, str] = {}
        self._keys: dict[int, str] = {}  # of each bound prompt, its schema's text
        self._compiled: dict[str, LLMatcher] = {}
        self._matchers: dict[int, LLMatcher] = {}  # of each bound prompt in flight
        self._taken: dict[int, int] = {}  # how many tokens each matcher has taken
        # Made once: making it costs as much as a step of a small model.
        self._mask: torch.Tensor | None = None
        for index, schema in enumerate(schemas):
            self.add(index, schema)

    @property
    def vocabulary(self) -> Vocabulary:
        """What is known of the tokenizer."""
        return self._find_vocabulary()

    def add(self, index: int, schema: dict[str, Any] | None) -> None:
        """Bind a prompt to its schema; raises ValueError when that cannot bind the decoding."""
        if schema is None:
            return
        key = json.dumps(schema)
        if key not in self._compiled:
            self._compiled[key] = self.vocabulary.compile(json.loads(key))
        self._keys[index] = key

    def drop(self, index: int) -> None:
        """Forget a prompt that has left, and its schema unless another one has it, too."""
        self._matchers.pop(index, None)
        self._taken.pop(index, None)
        self.problems.pop(index, None)
        if (key := self._keys.pop(index, None)) and key not in self._keys.values():
            self._compiled.pop(key, None)

    def __call__(
        self, indices: Sequence[int], generated: Sequence[Sequence[int]], logits: "torch.Tensor"
    ) -> "torch.Tensor":
        """Forbid tokens; arguments and result as decoding.LogitsHook says."""
        import torch

        bound = [
            (self._follow(index, ids), row)
            for row, (index, ids) in enumerate(zip(indices, generated, strict=True))
        ]
        matchers = [(matcher, row) for matcher, row in bound if matcher is not None]
        if not matchers:
            return logits
        mask = self._take_mask(len(indices), logits.device.type == "cuda")
        for matcher, row in bound:
            if matcher is None:
                mask[row] = -1  # every bit is set
        self.vocabulary.executor.unsafe_compute_mask_ptr(
            matchers, mask.data_ptr(), mask.shape[1] * 4, len(indices)
        )
        logits = _forbid(logits, mask.to(logits.device, non_blocking=True))
        for matcher, row in matchers:
            if matcher.is_error():
                problem = matcher.get_error().splitlines()[0]
                self.problems[indices[row]] = f"the grammar cannot follow the answer: {problem}"
                logits[row] = -torch.inf
                logits[row, self.vocabulary.stop_ids] = 0.0
        return logits

    def _take_mask(self, rows: int, is_pinned: bool) -> "torch.Tensor":
        """Masks of so many rows, [rows, vocabulary / 32], int32, as an earlier step left them."""
        import torch

        if self._mask is None or len(self._mask) < rows:
            shape = (rows, (self.vocabulary.n_logits + 31) // 32)
            self._mask = torch.empty(shape, dtype=torch.int32, pin_memory=is_pinned)
        return self._mask[:rows]

    def _follow(self, index: int, generated: Sequence[int]) -> "LLMatcher | None":
        """The matcher of a prompt after what was generated of it; None for a free one."""
        if (key := self._keys.get(index)) is None:
            return None
        taken = self._taken.get(index, 0)
        if not generated or taken > len(generated):  # begun, or begun again
            self._matchers[index] = self._compiled[key].deep_copy()
            taken = 0
        self._matchers[index].consume_tokens(list(generated[taken:]))
        self._taken[index] = len(generated)
        return self._matchers[index]


def _forbid(logits: "torch.Tensor", mask: "torch.Tensor") -> "torch.Tensor":
    """Logits with -inf where a bit is not set.

    Args:
        logits: [rows, vocabulary].
        mask: [rows, vocabulary / 32], int32: bit i of word w stands for the token 32 w + i.
    """
    import torch

    bits = (mask[:, :, None] >> torch.arange(32, device=mask.device, dtype=torch.int32)) & 1
    allowed = bits.view(len(mask), -1)[:, : logits.shape[1]].bool()
    return logits.masked_fill(~allowed, -torch.inf)
