"""The prompts that one decoding is about, those that still come, and who is told of each token.

A run asks for a fixed number of rows; a server's requests come while others are in work. Either way
memory may run out, and then what has no answer yet is begun again with fewer at once
(local_model.py): a Lot knows which those are, and Callbacks know which tokens were told already,
which nobody can take back.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from swaplib.models.local_checkpoint import Checkpoint

if TYPE_CHECKING:
    import torch

    from swaplib.models.decoding import LogitsHook, OnToken, Sampler


class Feed(Protocol):
    """Prompts that come while others are in work, as decoding.Feed, but as texts. It is asked in the model's thread."""

    def take(self, most: int) -> Sequence[tuple[str, int]]:
        """At most so many further prompts, each with its limit; their indices count up from 0. All fit the context."""

    def list_gone(self) -> Collection[int]:
        """The indices of prompts whose answers nobody waits for any more, each told once."""

    def refuse(self, index: int, error: Exception) -> None:
        """Be told that a prompt gets no answer, since it does not fit into memory even alone."""


@dataclass
class Lot:
    """The prompts that one decoding is about, by index; `waiting` are those without an answer. Is decoding's feed.

    `rows` are the prompts of the present attempt, which decode knows by their place in it.
    """

    checkpoint: Checkpoint
    encoded: dict[int, list[int]]
    limits: dict[int, int]
    waiting: list[int]
    feed: Feed | None = None
    came: int = 0
    rows: list[int] = field(default_factory=list)

    def begin(self) -> list[int]:
        """The rows of a new attempt."""
        self.rows = list(self.waiting)
        return self.rows

    def end(self, i: int) -> None:
        """A prompt needs no answer any more."""
        self.waiting.remove(i)
        if self.feed:  # a server runs for long
            del self.encoded[i], self.limits[i]

    def take(self, most: int) -> list[tuple[list[int], int]]:
        """What has come, as tokens."""
        taken = []
        for text, limit in self.feed.take(most):
            taken.append((self.checkpoint.encode(text), limit))
            self.encoded[self.came], self.limits[self.came] = taken[-1]
            self.waiting.append(self.came)
            self.rows.append(self.came)
            self.came += 1
        return taken

    def list_gone(self) -> list[int]:
        """The places of those that nobody waits for."""
        gone = [i for i in self.feed.list_gone() if i in self.encoded]
        for i in gone:
            self.end(i)
        return [self.rows.index(i) for i in gone]


@dataclass
class Callbacks:
    """A caller's callbacks, and the tokens that it was told of each row, which nobody can take back."""

    on_token: "OnToken | None"
    logits_hook: "LogitsHook | None"
    sampler: "Sampler | None"
    told: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def bind(
        self, rows: list[int]
    ) -> tuple["OnToken | None", "LogitsHook | None", "Sampler | None"]:
        """The callbacks for one attempt at these rows, which decode knows by their place in the list."""
        again = {i: tuple(self.told[i]) for i in rows if i in self.told}
        came: Counter[int] = Counter()

        def tell(place: int, token: int) -> None:
            i = rows[place]
            came[i] += 1
            if came[i] > len(again.get(i, ())):
                self.told[i].append(token)
                self.on_token(i, token)

        def change(
            places: Sequence[int], generated: Sequence[Sequence[int]], logits: "torch.Tensor"
        ) -> "torch.Tensor":
            return self.logits_hook([rows[place] for place in places], generated, logits)

        def choose(
            places: Sequence[int], generated: Sequence[Sequence[int]], logits: "torch.Tensor"
        ) -> "torch.Tensor":
            indices = [rows[place] for place in places]
            tokens = (
                self.sampler(indices, generated, logits).clone()
                if self.sampler
                else logits.argmax(-1)
            )
            for k, (i, ids) in enumerate(zip(indices, generated, strict=True)):
                if len(ids) < len(again.get(i, ())):
                    tokens[k] = again[i][len(ids)]
            return tokens

        return (
            self.on_token and tell,
            self.logits_hook and change,
            choose if self.sampler or again else None,
        )
