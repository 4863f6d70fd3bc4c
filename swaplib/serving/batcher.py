"""Answers requests over one LocalSLM, as many at once as it has slots: they join those in work, each gets its own answer.

A request that nobody waits for any more leaves its slot at the next token. One may ask for its text as it is made, and one
may bring a JSON Schema that binds its answer; the others are not slowed by that.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from swaplib.models.local import LocalSLM
from swaplib.rows import Generation

GATHER_S = 0.02


class Busy(Exception):  # noqa: N818 - reads as what happened
    """As many requests wait as may wait."""


@dataclass(eq=False)
class _Request:
    """A rendered prompt; `arrived` gets each token's id when the text is streamed, then the generation or its error."""

    text: str
    limit: int
    is_streamed: bool
    schema: dict[str, Any] | None
    is_gone: bool = False
    arrived: asyncio.Queue[int | Generation | Exception] = field(default_factory=asyncio.Queue)


@dataclass
class Batcher:
    """The queue before a model; at most `max_waiting` requests stand in it. `requests` counts those that were taken."""

    slm: LocalSLM
    max_waiting: int = 256
    requests: int = 0
    _waiting: deque[_Request] = field(default_factory=deque)
    _has_come: asyncio.Event = field(default_factory=asyncio.Event)
    _in_work: "_Session | None" = None
    _compiling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check_schema(self, schema: dict[str, Any]) -> None:
        """Compile a schema before a request brings it; raises ValueError when it cannot bind the decoding."""
        async with self._compiling:  # what is known of the tokenizer is made once, by the first
            await asyncio.to_thread(self.slm.model.constrain, [schema])

    async def ask(self, text: str, limit: int, schema: dict[str, Any] | None = None) -> Generation:
        """Queue a rendered prompt and wait for its answer of at most `limit` tokens, bound to a schema if there is one.

        Raises:
            Busy: The queue is full.
        """
        request = self._queue(text, limit, False, schema)
        try:
            return self._check(await request.arrived.get())
        finally:
            request.is_gone = True

    async def stream(
        self, text: str, limit: int, schema: dict[str, Any] | None = None
    ) -> AsyncIterator[str | Generation]:
        """Queue a rendered prompt; yields its text part by part, then the generation, whose output is the parts together."""
        request, ids, sent = self._queue(text, limit, True, schema), [], ""
        try:
            while isinstance(item := await request.arrived.get(), int):
                ids.append(item)
                said = self.slm.model.detokenise(ids)
                if len(said) > len(sent) and not said.endswith(
                    "\ufffd"
                ):  # a character may need several tokens
                    yield said[len(sent) :]
                    sent = said
        finally:
            request.is_gone = True
        generation = self._check(item)
        if rest := generation.output[len(sent) :]:
            yield rest
        yield generation

    def check_room(self) -> None:
        """Raise Busy when a further request could not be queued; a stream's status is sent before it is queued."""
        if len(self._waiting) >= self.max_waiting:
            raise Busy

    def count(self) -> dict[str, int]:
        """How many requests wait, and how many are in work."""
        return {
            "waiting": len(self._waiting),
            "in_work": len(self._in_work.requests) if self._in_work else 0,
        }

    def _queue(
        self, text: str, limit: int, is_streamed: bool, schema: dict[str, Any] | None
    ) -> _Request:
        self.check_room()
        self.requests += 1
        request = _Request(text, limit, is_streamed, schema)
        self._waiting.append(request)
        self._has_come.set()
        return request

    @staticmethod
    def _check(item: object) -> Generation:
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, Generation)  # noqa: S101 - our own invariant: tokens come before it
        return item

    async def run(self) -> None:
        """Answer requests until cancelled."""
        while True:
            await self._has_come.wait()
            await asyncio.sleep(
                GATHER_S
            )  # requests sent together arrive a moment apart, and begin alike
            self._has_come.clear()
            self._in_work = _Session(
                self.slm, self._waiting, asyncio.get_running_loop().call_soon_threadsafe
            )
            try:
                await asyncio.to_thread(self._in_work.answer)
            except Exception as error:  # each request that has no answer is told
                for request in self._in_work.requests.values():
                    request.arrived.put_nowait(error)
            finally:
                self._in_work = None
            if self._waiting:
                self._has_come.set()


class _Session:
    """One decoding, from the first request to when none is left; the model's feed. Everything runs in the model's thread.

    `requests` are those in work, by index.
    """

    def __init__(self, slm: LocalSLM, waiting: deque[_Request], call: Callable[..., Any]):
        self.slm, self.requests = slm, dict[int, _Request]()
        self._waiting, self._call, self._came = waiting, call, 0
        self._hook = slm.model.constrain([])

    def answer(self) -> None:
        """Answer what waits and what comes meanwhile."""
        for index, generation in self.slm.model.follow(
            self, self.slm.batch_size, self._tell_token, self._hook
        ):
            problem = self._hook.problems.get(index)
            self._end(index, RuntimeError(problem) if problem else generation)

    def take(self, most: int) -> list[tuple[str, int]]:
        """The next requests of the queue."""
        taken: list[tuple[str, int]] = []
        while self._waiting and len(taken) < most:
            request = self._waiting.popleft()
            if not request.is_gone:
                self._hook.add(self._came, request.schema)
                self.requests[self._came] = request
                self._came += 1
                taken.append((request.text, request.limit))
        return taken

    def list_gone(self) -> list[int]:
        """Those whose clients have gone."""
        gone = [index for index, request in self.requests.items() if request.is_gone]
        for index in gone:
            del self.requests[index]
            self._hook.drop(index)
        return gone

    def refuse(self, index: int, error: Exception) -> None:
        """A request that does not fit into memory."""
        self._end(index, error)

    def _tell_token(self, index: int, token: int) -> None:
        if (request := self.requests.get(index)) and request.is_streamed:
            self._call(request.arrived.put_nowait, token)

    def _end(self, index: int, item: Generation | Exception) -> None:
        self._hook.drop(index)
        if request := self.requests.pop(index, None):
            self._call(request.arrived.put_nowait, item)
