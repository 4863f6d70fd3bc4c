"""Do both models still agree on what is accepted? A random share of it is asked twice.

The hosted LLM gets such a request in the background, after its client has the SLM's answer. What
came of it is counted beside the route, over restarts and by all servers of the route:

    toolcall_router.audit.json    {"n": 40, "agreed": 31, "rate": 0.775, "interval": [0.63, 0.87],
                                   "val_interval": [0.90, 0.97], "is_drifting": true, …}

A route that has changed starts a new count; the one before is kept under `earlier`.
"""

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from swaplib.evaluation.answers import is_same
from swaplib.metrics import Prediction
from swaplib.provenance import now_utc
from swaplib.routing.answers import read_hosted
from swaplib.routing.hosted_calls import HostedCalls
from swaplib.routing.hosted_failures import HostedFailed
from swaplib.routing.route_file import Route, audit_of, make_agreement
from swaplib.routing.shared_json import change_json
from swaplib.serving.openai_format import ChatRequest
from swaplib.settings import show_path

Outcome = Literal["agreed", "disagreed", "hosted_errors", "over_budget", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("agreed", "disagreed", "hosted_errors", "over_budget", "skipped")
MOST_IN_FLIGHT = 8  # requests audited at once; beyond it one is skipped, and counted so
STOP_LIMIT_S = 5.0  # audits in flight get so long when the server stops


@dataclass
class Audit:
    """The audit of one route.

    Attributes:
        route: The route, with the agreement on val.
        calls: The hosted LLM.
        share: Of the accepted answers, 0..1.
        deadline_s: Of one audit.
    """

    route: Route
    calls: HostedCalls
    share: float
    deadline_s: float
    _tasks: set[asyncio.Task[None]] = field(default_factory=set, init=False, repr=False)
    _n_in_flight: int = field(default=0, init=False, repr=False)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    @property
    def path(self) -> Path:
        """The file of counts."""
        return audit_of(self.route.path)

    def check(self) -> None:
        """Raise ValueError where the file is broken, so that a server does not start with it."""
        change_json(self.path, self._advice, self._resume)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Gives the audits in flight a moment at the end; those that it ends are errors."""
        yield
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_LIMIT_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def start(self, request: ChatRequest, answer: Prediction | None) -> None:
        """Perhaps begin to audit an answer that has been sent.

        Args:
            request: The client's request.
            answer: The SLM's answer, parsed.
        """
        if random.random() >= self.share:  # noqa: S311 - a sample, no secret
            return
        if self._n_in_flight >= MOST_IN_FLIGHT:
            self._begin(self._count("skipped"))
        else:
            self._n_in_flight += 1
            self._begin(self._audit(request, answer))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Work in the background, held so that it is not collected."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _audit(self, request: ChatRequest, answer: Prediction | None) -> None:
        """Ask the hosted LLM the same, compare, count."""
        outcome: Outcome = "hosted_errors"
        try:
            until = asyncio.get_running_loop().time() + self.deadline_s
            hosted = await self.calls.ask(request, until)
            other = read_hosted(self.route.track, hosted.completion)
            outcome = "agreed" if is_same(answer, other) else "disagreed"
        except HostedFailed as failed:
            is_spent = failed.failure.code == "hosted_budget_spent"
            outcome = "over_budget" if is_spent else "hosted_errors"
        finally:
            self._n_in_flight -= 1
            await self._count(outcome)

    async def _count(self, outcome: Outcome) -> None:
        """Count an outcome on disk; where that fails, say so."""

        def add(content: dict[str, Any] | None) -> dict[str, Any]:
            record = self._resume(content)
            record["outcomes"][outcome] += 1
            return self._describe(record)

        async with self._turn:
            try:
                await asyncio.to_thread(change_json, self.path, self._advice, add)
            except (ValueError, OSError) as error:
                print(f"warning: an audit is not counted ({error})", file=sys.stderr)

    @property
    def _advice(self) -> str:
        return "Move it away: a new count begins."

    def _resume(self, content: dict[str, Any] | None) -> dict[str, Any]:
        """The record to go on with: a new one for a new route."""
        begun = {
            "route_sha256": self.route.key,
            "since": now_utc(),
            "outcomes": dict.fromkeys(OUTCOMES, 0),
            "earlier": [],
        }
        if content is None:
            return self._describe(begun)
        outcomes = content.get("outcomes")
        is_whole = isinstance(outcomes, dict) and set(outcomes) == set(OUTCOMES)
        if not is_whole or not isinstance(content.get("earlier"), list):
            raise ValueError(f"{show_path(self.path)} is no audit file. {self._advice}")
        if content.get("route_sha256") == self.route.key:
            return content
        before = {key: value for key, value in content.items() if key != "earlier"}
        return self._describe(begun | {"earlier": [*content["earlier"], before]})

    def _describe(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record with what follows from its counts."""
        agreed = record["outcomes"]["agreed"]
        found = make_agreement(agreed + record["outcomes"]["disagreed"], agreed)
        interval, of_val = found["interval"], self.route.agreement["interval"]
        return record | {
            **found,
            "val_interval": of_val,
            "is_drifting": bool(interval and of_val and interval[1] < of_val[0]),
        }
