"""What a run took, from its ledger: tokens, latencies, rows a second.

A row that its model never read (the prompt was too long, or filtered before, or the call failed)
does not count here: else a model would look the faster and the cheaper, the less it reads.
"""

from collections.abc import Sequence

from swaplib.formats.metrics_file import Taken, Usage
from swaplib.rows import Generation, LedgerLine


def measure_ledger(ledger: Sequence[LedgerLine]) -> Usage:
    """What a run took, from its ledger of one line for each row.

    `busy_seconds` and `rows_per_second` are None for older ledgers, which do not say when answers
    came; all but `rows_read` and the tokens are None when no row was read.
    """
    import numpy as np

    read = [line for line in ledger if _was_read(line.generation)]
    p50 = p95 = None
    if read:
        latencies = [line.generation.latency_ms for line in read]
        p50, p95 = (round(float(ms), 1) for ms in np.percentile(latencies, (50, 95)))
    busy = find_busy_seconds(read)
    return {
        "rows_read": len(read),
        "prompt_tokens": _sum_known([line.generation.prompt_tokens for line in read]),
        "completion_tokens": _sum_known([line.generation.completion_tokens for line in read]),
        "p50_latency_ms": p50,
        "p95_latency_ms": p95,
        "busy_seconds": busy and round(busy, 3),
        "rows_per_second": len(read) / busy if busy else None,
    }


def weigh_ledger(ledger: Sequence[LedgerLine], counts: Sequence[int]) -> Taken:
    """What a run would have taken, had it been asked each row as often as a log has its request.

    Args:
        ledger: One line for each row.
        counts: How often each row was asked, by its index.
    """
    asked = [line for line in ledger for _ in range(counts[line.index])]
    usage = measure_ledger(asked)
    read = [line for line in ledger if _was_read(line.generation)]
    if (parts := _share_busy_time(read)) is not None:
        seconds = sum(counts[line.index] * part for line, part in zip(read, parts, strict=True))
        usage["rows_per_second"] = usage["rows_read"] / seconds if seconds else None
    right = sum(all(line.scores.values()) for line in asked)
    return {"n_rows": len(asked), "extra": {**usage, "right": right}}


def _was_read(answer: Generation) -> bool:
    """Whether the model read the prompt."""
    if answer.status == "error":
        return False
    if answer.finish_reason == "content_filter":
        # A filter that stopped the answer, not the prompt, leaves text or a usage.
        return bool(answer.output) or answer.prompt_tokens is not None
    return answer.finish_reason != "context_length_exceeded" or bool(answer.output)


def _sum_known(counts: Sequence[int | None]) -> int | None:
    """The sum of counts; None when one of them is not known."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def find_busy_seconds(ledger: Sequence[LedgerLine]) -> float | None:
    """The time in which at least one call was in flight, in seconds; None if it is not known.

    It is the union of the calls' intervals, so loading and pauses are not in it.
    """
    if not (calls := _list_calls(ledger)):
        return None
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(calls):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy


def _share_busy_time(ledger: Sequence[LedgerLine]) -> list[float] | None:
    """Each call's part of the busy time, in seconds: those in flight at a moment share it alike.

    Together they are what find_busy_seconds finds; None if that is not known.
    """
    import numpy as np

    if not (calls := _list_calls(ledger)):
        return None
    starts, ends = np.array(calls).T
    moments = np.unique(calls)
    started = np.searchsorted(np.sort(starts), moments[:-1], side="right")
    ended = np.searchsorted(np.sort(ends), moments[:-1], side="right")
    in_flight = np.maximum(started - ended, 1)  # between calls nobody takes part
    reached = np.concatenate([[0.0], np.cumsum(np.diff(moments) / in_flight)])
    parts = reached[np.searchsorted(moments, ends)] - reached[np.searchsorted(moments, starts)]
    return [float(part) for part in parts]


def _list_calls(ledger: Sequence[LedgerLine]) -> list[tuple[float, float]]:
    """When each call began and ended; none where that is not known of all."""
    calls = [
        (line.ended_at - line.generation.latency_ms / 1000, line.ended_at)
        for line in ledger
        if line.ended_at is not None
    ]
    return calls if len(calls) == len(ledger) else []
