"""Answers requests with one LocalSLM, up to its batch size at once; new ones join those in flight.

A request whose client has gone leaves its slot at the next token. A request may ask for its text as
it is generated, or bring a JSON Schema that binds its answer; neither slows the others.

    batcher = Batcher(slm)
    worker = asyncio.create_task(batcher.run())
    await batcher.ask(prompt, 8)    Generation("Yes.", "ok", "stop", …)
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

from swaplib.models.local import LocalSLM
from swaplib.rows import Generation

GATHER_S = 0.02  # requests sent together arrive a moment apart, and should share a prefill


class Busy(Exception):  # noqa: N818 - named for what happened
    """The queue is full."""


@dataclass(eq=False)
class _Request:
    """A rendered prompt that waits or is in flight.

    `arrived` gets the id of each token if the text is streamed, then the generation or its error.
    """

    text: str
    max_new_tokens: int
    is_streamed: bool
    schema: dict[str, Any] | None
    is_gone: bool = False
    arrived: asyncio.Queue[int | Generation | Exception] = field(default_factory=asyncio.Queue)


@dataclass
class Batcher:
    """The queue of a model.

    Attributes:
        slm: The model; its batch size is how many requests are in flight at most.
        max_waiting: How many more may wait.
        requests: How many were accepted so far.
    """

    slm: LocalSLM
    max_waiting: int = 256
    requests: int = 0
    _waiting: deque[_Request] = field(default_factory=deque)
    _has_requests: asyncio.Event = field(default_factory=asyncio.Event)
    _session: "_Session | None" = None
    _compiling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check_schema(self, schema: dict[str, Any]) -> None:
        """Compile a schema before its request is queued.

        Raises:
            ValueError: It cannot bind the decoding.
        """
        # One at a time: the first one analyses the tokenizer, which takes a second.
        async with self._compiling:
            await asyncio.to_thread(self.slm.model.constrain, [schema])

    async def ask(
        self, text: str, max_new_tokens: int, schema: dict[str, Any] | None = None
    ) -> Generation:
        """Queue a rendered prompt and wait for its answer, which is bound to the schema if any.

        Raises:
            Busy: The queue is full.
        """
        request = self._queue(text, max_new_tokens, False, schema)
        try:
            return self._check(await request.arrived.get())
        finally:
            request.is_gone = True

    async def stream(
        self, text: str, max_new_tokens: int, schema: dict[str, Any] | None = None
    ) -> AsyncIterator[str | Generation]:
        """Queue a rendered prompt; yields its answer in parts, then the generation.

        The parts together are the generation's output.

        Raises:
            Busy: The queue is full.
        """
        request = self._queue(text, max_new_tokens, True, schema)
        ids: list[int] = []
        sent = ""
        try:
            while isinstance(item := await request.arrived.get(), int):
                ids.append(item)
                output = self.slm.model.detokenise(ids)
                # A character may take several tokens; until the last one it ends in U+FFFD.
                if len(output) > len(sent) and not output.endswith("\ufffd"):
                    yield output[len(sent) :]
                    sent = output
        finally:
            request.is_gone = True
        generation = self._check(item)
        if rest := generation.output[len(sent) :]:
            yield rest
        yield generation

    def check_room(self) -> None:
        """Raise Busy when a request could not be queued: a stream sends its status before it is."""
        if len(self._waiting) >= self.max_waiting:
            raise Busy

    def count(self) -> dict[str, int]:
        """How many requests wait, and how many are in flight (`in_work`)."""
        in_flight = len(self._session.requests) if self._session else 0
        return {"waiting": len(self._waiting), "in_work": in_flight}

    def _queue(
        self, text: str, max_new_tokens: int, is_streamed: bool, schema: dict[str, Any] | None
    ) -> _Request:
        self.check_room()
        self.requests += 1
        request = _Request(text, max_new_tokens, is_streamed, schema)
        self._waiting.append(request)
        self._has_requests.set()
        return request

    @staticmethod
    def _check(item: object) -> Generation:
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, Generation)  # noqa: S101 - our own invariant: tokens come before
        return item

    async def run(self) -> None:
        """Answer requests until cancelled."""
        while True:
            await self._has_requests.wait()
            await asyncio.sleep(GATHER_S)
            self._has_requests.clear()
            call = asyncio.get_running_loop().call_soon_threadsafe
            self._session = session = _Session(self.slm, self._waiting, call)
            try:
                await asyncio.to_thread(session.answer)
            except Exception as error:  # every request that has no answer gets the error
                # A decoding that took none would fail again, so those that wait get it, too.
                failed = list(session.requests.values()) or self._drop_waiting()
                for request in failed:
                    request.arrived.put_nowait(error)
            finally:
                self._session = None
            if self._waiting:
                self._has_requests.set()

    def _drop_waiting(self) -> list[_Request]:
        """All requests that wait, which are no longer in the queue."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting


class _Session:
    """One decoding, from the first request until none is left; it is the model's feed.

    All its methods run in the model's thread; `call` schedules a call in the event loop's thread.
    `requests` are those in flight, by index.
    """

    def __init__(self, slm: LocalSLM, waiting: deque[_Request], call: Callable[..., Any]):
        self.slm = slm
        self.requests: dict[int, _Request] = {}
        self._waiting = waiting
        self._call = call
        self._n_taken = 0
        self._hook = slm.model.constrain([])

    def answer(self) -> None:
        """Answer the requests that wait, and those that arrive meanwhile."""
        generations = self.slm.model.follow(self, self.slm.batch_size, self._send_token, self._hook)
        for index, generation in generations:
            problem = self._hook.problems.get(index)
            self._end(index, RuntimeError(problem) if problem else generation)

    def take(self, most: int) -> list[tuple[str, int]]:
        """The next requests of the queue, each with its max_new_tokens."""
        taken: list[tuple[str, int]] = []
        while self._waiting and len(taken) < most:
            request = self._waiting.popleft()
            if not request.is_gone:
                self._hook.add(self._n_taken, request.schema)
                self.requests[self._n_taken] = request
                self._n_taken += 1
                taken.append((request.text, request.max_new_tokens))
        return taken

    def list_gone(self) -> list[int]:
        """The requests whose clients have gone, by index."""
        gone = [index for index, request in self.requests.items() if request.is_gone]
        for index in gone:
            del self.requests[index]
            self._hook.drop(index)
        return gone

    def refuse(self, index: int, error: Exception) -> None:
        """End a request that does not fit into memory."""
        self._end(index, error)

    def _send_token(self, index: int, token: int) -> None:
        if (request := self.requests.get(index)) and request.is_streamed:
            self._call(request.arrived.put_nowait, token)

    def _end(self, index: int, item: Generation | Exception) -> None:
        self._hook.drop(index)
        if request := self.requests.pop(index, None):
            self._call(request.arrived.put_nowait, item)
