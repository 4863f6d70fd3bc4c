"""What the parent records of one cell: its code, its calls with the replies, its answers.

When the child has ended, the cell is run again in the next one, and its record replies to it:

    Cell("a = circle_area(radius=1)")
    replies   [({"name": "circle_area", "args": [], "kwargs": {"radius": 1}}, {"value": "ZxgtRF…"})]
    calls     [{"name": "circle_area", "arguments": {"radius": 1}}]
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from swaplib.agents.sandbox import tool_hosts
from swaplib.agents.sandbox.calls import Broken, Channel
from swaplib.agents.sandbox.tool_hosts import ToolHost
from swaplib.agents.tools import TOOLS, bind_arguments

Message = dict[str, Any]
ReplyTo = Callable[[Message, float], Message]  # the reply to a call, given the cell's deadline


@dataclass
class Cell:
    """One cell, running or done.

    Attributes:
        code: Its code.
        replies: What it asked of tools, as the child sent it, each with the reply.
        calls: The calls among these whose arguments fit the tool, by parameter name.
        answers: The values that it gave to final_answer.
    """

    code: str
    replies: list[tuple[Message, Message]] = field(default_factory=list)
    calls: list[Message] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    def execute(self, call: Message, tools: Channel | ToolHost, deadline: float) -> Message:
        """Have a call executed, and record it with its reply, which is returned.

        Args:
            call: As the child sent it.
            tools: The channel to the process of the built-in tools, or who runs your own.
            deadline: The cell's.
        """
        reply = self._execute(call, tools, deadline)
        self.replies.append((call, reply))
        return reply

    def _execute(self, call: Message, tools: Channel | ToolHost, deadline: float) -> Message:
        try:
            arguments = _bind(call, tools)
        except TypeError as error:
            return {"error": ["TypeError", str(error)]}
        made = {"name": call["name"], "arguments": arguments}
        self.calls.append(made)
        if not isinstance(tools, Channel):
            return tool_hosts.reply(tools, made, deadline)
        tools.send(made, deadline)
        return json.loads(tools.receive(deadline))

    def replay(self) -> ReplyTo:
        """Replies to the cell's calls as they were, as long as it makes the same calls again."""
        replies = iter(self.replies)

        def reply_to(call: Message, _: float) -> Message:
            known, reply = next(replies, ({}, {}))
            if known != call:
                raise Broken("another call than before")
            return reply

        return reply_to


def _bind(call: Message, tools: Channel | ToolHost) -> dict[str, Any]:
    if isinstance(tools, Channel):
        return bind_arguments(TOOLS[call["name"]], *call["args"], **call["kwargs"])
    return tool_hosts.bind(tools, call)
