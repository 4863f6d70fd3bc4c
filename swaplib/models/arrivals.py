"""Runs calls on an event loop in a thread of its own, and hands their results on as they come.

So a plain generator can make concurrent calls, also inside a notebook, whose thread has a loop of
its own already. It knows no endpoint and no retry.
"""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator

from swaplib.rows import Generation

# Results as they come, a failure that ends them all, and None at the end.
Arrivals = queue.Queue[tuple[int, Generation] | BaseException | None]
Work = Callable[[Arrivals, asyncio.Semaphore], Coroutine[None, None, None]]


def stream_arrivals(work: Work, concurrency: int) -> Iterator[tuple[int, Generation]]:
    """Run a coroutine in a thread, and yield what it puts into its queue.

    When the consumer stops, the coroutine is cancelled.

    Args:
        work: Makes the coroutine; it puts each result into the queue, and acquires the semaphore
            before each call. The semaphore is released here, when the consumer comes back for the
            next result: what it has not saved yet would be lost with it.
        concurrency: The most results that are in flight or not yet taken.

    Raises:
        Exception: What the coroutine raised; of a group the first.
    """
    arrived: Arrivals = queue.Queue()
    loop = asyncio.new_event_loop()
    free = asyncio.Semaphore(concurrency)
    task = loop.create_task(work(arrived, free))
    thread = threading.Thread(target=_run_loop, args=(loop, task, arrived), daemon=True)
    thread.start()
    try:
        while (item := arrived.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
            with contextlib.suppress(RuntimeError):  # the loop is closed when every call is done
                loop.call_soon_threadsafe(free.release)
    finally:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)
        thread.join()


def _run_loop(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], arrived: Arrivals) -> None:
    """Run a task to its end in this thread; its failure, then None, go to the queue."""
    try:
        loop.run_until_complete(task)
    except BaseExceptionGroup as group:
        arrived.put(group.exceptions[0])
    except BaseException as error:  # handed to the consumer, which raises it
        arrived.put(error)
    finally:
        arrived.put(None)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
