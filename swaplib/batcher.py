"""Answers requests over one LocalSLM in batches: those that wait are taken together, each gets its own answer.

One batch runs at a time, and each of its answers leaves as soon as it has ended. A request may ask for its text as it is
made; the others of its batch are not slowed by that. A request may bring a JSON Schema that binds its answer, and stands in
one batch with those that are free.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from swaplib.local import LocalSLM
from swaplib.rows import Generation

GATHER_S = 0.02


@dataclass(eq=False)
class _Request:
    """A rendered prompt; `arrived` gets each token's id when the text is streamed, then the generation or its error."""

    text: str
    limit: int
    is_streamed: bool
    schema: dict[str, Any] | None
    arrived: asyncio.Queue[int | Generation | Exception] = field(default_factory=asyncio.Queue)


@dataclass
class Batcher:
    """The queue before a model. `requests` counts those that were taken."""

    slm: LocalSLM
    requests: int = 0
    _waiting: asyncio.Queue[_Request] = field(default_factory=asyncio.Queue)
    _compiling: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def check_schema(self, schema: dict[str, Any]) -> None:
        """Compile a schema before a request brings it; raises ValueError when it cannot bind the decoding."""
        async with self._compiling:  # what is known of the tokenizer is made once, by the first
            await asyncio.to_thread(self.slm.model.constrain, [schema])

    async def ask(self, text: str, limit: int, schema: dict[str, Any] | None = None) -> Generation:
        """Queue a rendered prompt and wait for its answer of at most `limit` tokens, bound to a schema if there is one."""
        request = self._queue(text, limit, False, schema)
        return self._check(await request.arrived.get())

    async def stream(
        self, text: str, limit: int, schema: dict[str, Any] | None = None
    ) -> AsyncIterator[str | Generation]:
        """Queue a rendered prompt; yields its text part by part, then the generation, whose output is the parts together."""
        request, ids, sent = self._queue(text, limit, True, schema), [], ""
        while isinstance(item := await request.arrived.get(), int):
            ids.append(item)
            said = self.slm.model.detokenise(ids)
            if len(said) > len(sent) and not said.endswith("\ufffd"):  # a character may need several tokens
                yield said[len(sent) :]
                sent = said
        generation = self._check(item)
        if rest := generation.output[len(sent) :]:
            yield rest
        yield generation

    def _queue(self, text: str, limit: int, is_streamed: bool, schema: dict[str, Any] | None) -> _Request:
        self.requests += 1
        request = _Request(text, limit, is_streamed, schema)
        self._waiting.put_nowait(request)
        return request

    @staticmethod
    def _check(item: object) -> Generation:
        if isinstance(item, Exception):
            raise item
        assert isinstance(item, Generation)  # noqa: S101 - our own invariant: tokens come before it
        return item

    async def run(self) -> None:
        """Answer batches until cancelled."""
        while True:
            batch = [await self._waiting.get()]
            await asyncio.sleep(GATHER_S)  # requests sent together arrive a moment apart
            while not self._waiting.empty() and len(batch) < self.slm.batch_size:
                batch.append(self._waiting.get_nowait())
            for limit in sorted({request.limit for request in batch}):
                await self._answer(limit, [request for request in batch if request.limit == limit])

    async def _answer(self, limit: int, batch: list[_Request]) -> None:
        loop, waiting = asyncio.get_running_loop(), dict(enumerate(batch))

        def tell(index: int, item: int | Generation | Exception) -> None:  # called in the model's thread
            loop.call_soon_threadsafe(batch[index].arrived.put_nowait, item)

        def tell_token(index: int, token: int) -> None:
            if batch[index].is_streamed:
                tell(index, token)

        def generate() -> None:
            on_token = tell_token if any(request.is_streamed for request in batch) else None
            prompts, schemas = [request.text for request in batch], [request.schema for request in batch]
            is_bound = any(schema is not None for schema in schemas)
            hook = self.slm.model.constrain(schemas) if is_bound else None
            bound = {"logits_hook": hook} if hook else {}
            for index, generation in self.slm.model.generate(prompts, limit, self.slm.batch_size, on_token, **bound):
                del waiting[index]
                problem = hook.problems.get(index) if hook else None
                tell(index, RuntimeError(problem) if problem else generation)

        try:
            await asyncio.to_thread(generate)
        except Exception as error:  # each request that has no answer is told
            for request in waiting.values():
                request.arrived.put_nowait(error)
