"""A conversation out of a log as one text, as a row's prompt shows it.

Each turn begins with who speaks; a lone user message is its text:

    system: You book rooms.

    user: Two nights in Rome

    assistant calls find_hotels({"city":"Rome"})

    find_hotels gives: ["Roma Inn"]

    user: The first one, please
"""

from typing import Any

from swaplib.data.stream_chunks import as_dict, as_list

Json = dict[str, Any]


class NoRowError(Exception):
    """Why an exchange becomes no row."""


def read_text(message: Json) -> str:
    """The text of a message.

    Raises:
        NoRowError: It holds something that is no text, such as an image.
    """
    parts = []
    for part in as_list(message.get("content")):
        text = part if isinstance(part, str) else as_dict(part).get("text")
        if not isinstance(text, str):
            raise NoRowError("a message holds something that is no text")
        parts.append(text)
    return "".join(parts)


def format_conversation(messages: list[Json]) -> str:
    """The last request alone, or with what was said before it."""
    if len(messages) == 1:
        return read_text(messages[0])
    names: dict[Any, str] = {}
    turns = []
    for message in messages:
        turns.append(_format_turn(message, names))
    return "\n\n".join(turn for turn in turns if turn)


def _format_turn(message: Json, names: dict[Any, str]) -> str:
    """One turn; `names` remembers which tool each call's id is of."""
    role, text = message.get("role"), read_text(message)
    if role == "tool":
        return f"{names.get(message.get('tool_call_id'), 'tool')} gives: {text}"
    lines = [f"{role}: {text}"] if text else []
    for call in map(as_dict, as_list(message.get("tool_calls"))):
        function = as_dict(call.get("function"))
        names[call.get("id")] = str(function.get("name"))
        lines.append(f"{role} calls {function.get('name')}({function.get('arguments')})")
    return "\n\n".join(lines)
