"""Which prompts of one decoding wait and which are in flight. It knows no model and no tensors.

decoding.py reports who joins and who leaves; a prompt that has left, with an answer or without,
leaves nothing behind.
"""

import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class InFlight:
    """The prompts without an answer, by index: those `waiting`, in order, and those in flight.

    Of each prompt in flight, `logprobs` holds those of its tokens so far, and `started_at` when it
    joined, as time.perf_counter() counts (seconds).
    """

    waiting: deque[int]
    logprobs: dict[int, list[float]] = field(default_factory=dict)
    started_at: dict[int, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.waiting) + len(self.logprobs)

    def start(self, most: int, at: float) -> list[int]:
        """Let the first waiting prompts join, at most so many; returns their indices."""
        joining = [self.waiting.popleft() for _ in range(min(most, len(self.waiting)))]
        self.logprobs |= {index: [] for index in joining}
        self.started_at |= dict.fromkeys(joining, at)
        return joining

    def end(self, index: int) -> tuple[list[float], float]:
        """Let a prompt in flight leave; returns its logprobs and the seconds since it joined."""
        return self.logprobs.pop(index), time.perf_counter() - self.started_at.pop(index)

    def drop(self, index: int) -> bool:
        """Let a prompt leave without an answer; returns whether it was in flight."""
        if index in self.waiting:
            self.waiting.remove(index)
        is_in_flight = index in self.logprobs
        if is_in_flight:
            self.end(index)
        return is_in_flight
