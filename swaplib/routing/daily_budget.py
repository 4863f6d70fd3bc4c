"""How many HTTP calls a route may make to the hosted LLM on one day (UTC), retries among them.

Each call is booked on disk before it is sent, so neither a restart nor a kill forgets one: a call
that was booked and never sent counts. All servers of one route share the file:

    toolcall_router.budget.json    {"day": "2026-11-26", "calls": 12}
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from swaplib.routing.shared_json import change_json
from swaplib.settings import show_path


class BudgetSpent(Exception):  # noqa: N818 - named for what happened
    """The day's calls are spent; `seconds` until the next day begins."""

    def __init__(self, limit: int, seconds: int):
        super().__init__(f"the day's budget of {limit} calls to the hosted LLM is spent")
        self.seconds = seconds


class BudgetBroken(Exception):  # noqa: N818 - named for what happened
    """The file cannot be read or written, so no call can be booked; the message names it."""


@dataclass
class DailyBudget:
    """The calls of one route.

    Attributes:
        path: The file, beside that of the route.
        limit: Calls a day.
    """

    path: Path
    limit: int
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    @classmethod
    def beside(cls, route: Path, limit: int) -> "DailyBudget":
        """The budget of the route in a file."""
        return cls(route.with_name(f"{route.stem}.budget.json"), limit)

    def check(self) -> None:
        """Raise ValueError where the file is broken, so that a server does not start with it."""

        def look(content: dict[str, Any] | None) -> None:
            if content is not None:
                self._read(content)

        change_json(self.path, self._advice, look)

    async def book(self) -> None:
        """Book one call.

        Raises:
            BudgetSpent: There is none left today, and none was booked.
            BudgetBroken: It cannot be booked.
        """
        async with self._turn:  # so that this process waits for the file in one thread only
            try:
                await asyncio.to_thread(change_json, self.path, self._advice, self._add_call)
            except (ValueError, OSError) as error:
                raise BudgetBroken(f"no call can be booked ({error})") from None

    @property
    def _advice(self) -> str:
        return (
            'Mend it: {"day": "YYYY-MM-DD", "calls": N}, the calls of that day (UTC). Without the '
            "file, counting begins at 0."
        )

    def _add_call(self, content: dict[str, Any] | None) -> dict[str, Any]:
        now = datetime.now(UTC)
        day, calls = (now.date(), 0) if content is None else self._read(content)
        if day < now.date():
            day, calls = now.date(), 0
        if calls >= self.limit:
            # a day still to come, where the clock was set back, is used up before its end
            midnight = datetime.combine(day + timedelta(days=1), time(), UTC)
            raise BudgetSpent(self.limit, int((midnight - now).total_seconds()) + 1)
        return {"day": day.isoformat(), "calls": calls + 1}

    def _read(self, content: dict[str, Any]) -> tuple[date, int]:
        """The day and its calls; raises ValueError for anything else."""
        match content:
            case {"day": str(day), "calls": int(calls)} if len(content) == 2:
                with suppress(ValueError):
                    if calls >= 0 and not isinstance(calls, bool):
                        return date.fromisoformat(day), calls
        raise ValueError(f"{show_path(self.path)} is no budget file. {self._advice}")
