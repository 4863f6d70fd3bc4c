"""The prompts that one decoding is about, those that still come, and who is called with each token.

A run asks for a fixed number of rows; a server's requests come while others are in flight. Either
way memory may run out, and then what has no answer yet is begun again with a smaller batch
(local_model.py): a Lot knows which prompts those are, and Callbacks know which of their tokens were
streamed already, which nobody can take back.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from swaplib.models.local_checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from swaplib.models.decoding import LogitsHook, OnToken, Sampler


class Feed(Protocol):
    """Texts of prompts that come while others are in flight. It is called in the model's thread."""

    def take(self, most: int) -> Sequence[tuple[str, int]]:
        """At most so many further prompts, each with its max_new_tokens.

        Their indices count up from 0. All fit the model's context.
        """

    def list_gone(self) -> Collection[int]:
        """The indices of prompts whose answers nobody waits for any more, each reported once."""

    def refuse(self, index: int, error: Exception) -> None:
        """Called for a prompt that gets no answer, since it does not fit into memory even alone."""


@dataclass
class Callbacks:
    """A caller's callbacks, and what was `streamed` of each prompt that has no answer yet."""

    on_token: "OnToken | None" = None
    logits_hook: "LogitsHook | None" = None
    sampler: "Sampler | None" = None
    streamed: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def bind(
        self, rows: Sequence[int]
    ) -> tuple["OnToken | None", "LogitsHook | None", "Sampler | None"]:
        """The callbacks for one attempt at these rows, which decode knows by their places in it."""
        fixed = {i: tuple(self.streamed[i]) for i in rows if i in self.streamed}
        return (
            self.on_token and self._bind_on_token(self.on_token, rows, fixed),
            self.logits_hook and _bind_hook(self.logits_hook, rows),
            _bind_sampler(self.sampler, rows, fixed) if self.sampler or fixed else None,
        )

    def _bind_on_token(
        self, on_token: "OnToken", rows: Sequence[int], fixed: Mapping[int, Sequence[int]]
    ) -> "OnToken":
        """Calls on_token with the tokens that were not streamed by an earlier attempt."""
        n_decoded: Counter[int] = Counter()

        def stream(place: int, token: int) -> None:
            """Stream a token of the row in this place, unless it was streamed before."""
            i = rows[place]
            n_decoded[i] += 1
            if n_decoded[i] > len(fixed.get(i, ())):
                self.streamed[i].append(token)
                on_token(i, token)

        return stream


def _bind_hook(logits_hook: "LogitsHook", rows: Sequence[int]) -> "LogitsHook":
    """Calls a hook with the indices of rows in place of their places."""

    def change(
        places: Sequence[int], generated: Sequence[Sequence[int]], logits: "torch.Tensor"
    ) -> "torch.Tensor":
        """The caller's logits, [prompts, vocabulary], for the rows in these places."""
        return logits_hook([rows[place] for place in places], generated, logits)

    return change


def _bind_sampler(
    sampler: "Sampler | None", rows: Sequence[int], fixed: Mapping[int, Sequence[int]]
) -> "Sampler":
    """Chooses the tokens again that were streamed before, and behind them as the caller would."""

    def choose(
        places: Sequence[int], generated: Sequence[Sequence[int]], logits: "torch.Tensor"
    ) -> "torch.Tensor":
        """Token ids, [prompts], for the rows in these places; logits are [prompts, vocabulary]."""
        indices = [rows[place] for place in places]
        tokens = sampler(indices, generated, logits).clone() if sampler else logits.argmax(-1)
        for k, (i, ids) in enumerate(zip(indices, generated, strict=True)):
            if len(ids) < len(fixed.get(i, ())):
                tokens[k] = fixed[i][len(ids)]
        return tokens

    return choose


@dataclass
class Lot:
    """The prompts that one decoding is about, by index; it is decoding's feed.

    `encoded` and `max_new_tokens` hold each prompt's tokens and longest answer; `waiting` are the
    prompts without an answer, and `rows` those of the present attempt, which decode knows by their
    places in it. `n_taken` counts what the feed has brought.
    """

    checkpoint: Checkpoint
    callbacks: Callbacks
    encoded: dict[int, list[int]] = field(default_factory=dict)
    max_new_tokens: dict[int, int] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    feed: Feed | None = None
    n_taken: int = 0
    rows: list[int] = field(default_factory=list)

    def begin(self) -> list[int]:
        """The rows of a new attempt."""
        self.rows = list(self.waiting)
        return self.rows

    def end(self, i: int) -> None:
        """Let a prompt go that needs no answer any more; of a server's, nothing is kept."""
        self.waiting.remove(i)
        self.callbacks.streamed.pop(i, None)
        if self.feed:
            del self.encoded[i], self.max_new_tokens[i]

    def take(self, most: int) -> list[tuple[list[int], int]]:
        """What the feed has brought, as tokens."""
        taken = []
        for text, max_new_tokens in self.feed.take(most) if self.feed else ():
            ids = self.checkpoint.encode(text)
            taken.append((ids, max_new_tokens))
            self.encoded[self.n_taken] = ids
            self.max_new_tokens[self.n_taken] = max_new_tokens
            self.waiting.append(self.n_taken)
            self.rows.append(self.n_taken)
            self.n_taken += 1
        return taken

    def list_gone(self) -> list[int]:
        """The places of prompts whose answers nobody waits for any more."""
        gone = [i for i in self.feed.list_gone() if i in self.encoded] if self.feed else []
        for i in gone:
            self.end(i)
        return [self.rows.index(i) for i in gone]
