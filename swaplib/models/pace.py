"""How fast calls may start: under an endpoint's limits a minute, and not while it asks for a pause.

Calls start evenly, since an endpoint counts over seconds and not over the whole minute. One Pace
serves all threads that ask the same endpoint: each turn of an agent has an event loop of its own,
to which asyncio's limiters are bound. It makes no call and retries none.
"""

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2

SHARE = 0.97  # of a limit: the endpoint's clock and its count of tokens are not ours
CATCH_UP_S = 0.1  # starts that are late, since the processor is busy, are made up for within it
LONGEST_PAUSE_S = 120.0  # the SDK waits no longer either: beyond it a 429 is a refusal


@dataclass
class Pace:
    """The limits of one endpoint a minute (None: no limit), and when the next call may start."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    _free_at: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)
    _resume_at: float = field(default=0.0, init=False, repr=False, compare=False)
    _lock: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    async def wait(self, tokens: int) -> None:
        """Wait until a call may start, and book it.

        Args:
            tokens: What the endpoint counts for it: its prompt and the limit of its answer.
        """
        while (seconds := self._try_start(tokens)) > 0:
            await asyncio.sleep(seconds)

    def find_wait(self) -> float:
        """Seconds until a call may start, as far as is known now; nothing is booked."""
        with self._lock:
            return max(0.0, self._resume_at, *self._free_at.values()) - time.monotonic()

    async def observe_response(self, response: httpx2.Response) -> None:
        """Let new calls wait as well where a 429 tells its own call to wait."""
        if response.status_code != 429:
            return
        for header, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
            try:
                seconds = float(response.headers[header]) * unit
            except (KeyError, ValueError):  # a date: the SDK waits for it, in that call alone
                continue
            if 0 < seconds <= LONGEST_PAUSE_S:
                with self._lock:
                    self._resume_at = max(self._resume_at, time.monotonic() + seconds)
            return

    def _try_start(self, tokens: int) -> float:
        """Book a call and return 0; or book nothing and return the seconds until the next try."""
        limits = {
            "requests": (1, self.requests_per_minute),
            "tokens": (tokens, self.tokens_per_minute),
        }
        with self._lock:
            now = time.monotonic()
            if (seconds := max(0.0, self._resume_at, *self._free_at.values()) - now) > 0:
                return seconds
            for name, (amount, limit) in limits.items():
                if limit:
                    begin = max(self._free_at.get(name, now), now - CATCH_UP_S)
                    self._free_at[name] = begin + 60 * amount / (limit * SHARE)
        return 0.0


def estimate_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """What an endpoint counts for a prompt before it reads it, about: 4 characters a token."""
    return sum(len(message.get("content") or "") for message in messages) // 4
