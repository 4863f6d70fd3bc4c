"""The instructions that benchmarks/prompts.py compares, for both tracks and the agent.

Those that the package uses are among them.
"""

from swaplib.metrics import Track

_ASKS: dict[Track, str] = {
    "toolcall": (
        "Answer the request with one call of the tool below. "
        "Reply with exactly one wrapper around one JSON object"
    ),
    "structured": (
        "Answer the request with calls of the tools below. "
        "Reply with exactly one JSON array, its calls in the order asked"
    ),
}
_DEFAULTS = "Leave out a parameter with a default unless the request sets it."
_REST = "\n\n{signatures}\n\nRequest: {request}"
_TEA = '{{"name":"pour_tea","arguments":{{"cups":2,"sweetener":"honey"}}}}'
_TEA_AGAIN = '{{"name":"pour_tea","arguments":{{"cups":1}}}}'
_BELL = '{{"name":"ring_bell","arguments":{{"times_rung":3}}}}'
_CALLS: dict[Track, str] = {
    "toolcall": '<tool_call name="pour_tea">{{"cups":2,"sweetener":"honey"}}</tool_call>',
    "structured": f"[{_TEA},{_BELL}]",
}
_TWICE: dict[Track, str] = {"structured": f"[{_TEA},{_TEA_AGAIN},{_BELL}]"}
_ENDS: dict[Track, str] = {
    "toolcall": 'Start with <tool_call name=" and end with </tool_call>.',
    "structured": "Start with [ and end with ].",
}
_SHORT_ENDS = _ENDS | {"toolcall": "Start with <tool_call and end with </tool_call>."}
# How the finished call is introduced, after what is asked for.
_EXAMPLE: dict[Track, str] = {
    "toolcall": ". For example, a call of another tool:",
    "structured": ". For example, two calls of other tools:",
}
_LIKE: dict[Track, str] = {
    "toolcall": ", written like this call of another tool:",
    "structured": ", written like these calls of other tools:",
}
_THREE: dict[Track, str] = {"structured": ". For example, three calls of other tools:"}
_EACH: dict[Track, str] = {
    "structured": (
        "; one object for each thing that is asked, even where one tool does several, "
        "as in these calls of other tools:"
    )
}
_PARTS: dict[Track, str] = {
    "toolcall": (
        "; the wrapper names the tool and the object holds its arguments, "
        "as in this call of another tool:"
    ),
    "structured": (
        "; each object names a tool and holds its arguments, as in these calls of other tools:"
    ),
}
_VALUES = (
    "Copy texts and numbers as the request has them; write numbers as numbers and texts as texts."
)


def _make(
    heads: dict[Track, str],
    calls: dict[Track, str] = _CALLS,
    ends: dict[Track, str] | None = None,
    more: str = "",
) -> dict[Track, str]:
    """One candidate: the request, how finished calls are introduced, the calls, the ends, more."""
    last = {
        track: " ".join(filter(None, ((ends or {}).get(track), more, _DEFAULTS))) for track in calls
    }
    return {
        track: f"{_ASKS[track]}{heads[track]}\n{calls[track]}\n{last[track]}{_REST}"
        for track in calls
    }


# What the package uses is one of them.
CANDIDATES: dict[str, dict[Track, str]] = {
    "a form to fill in": _make(
        {"toolcall": ":", "structured": ":"},
        {
            "toolcall": '<tool_call name="TOOL">{{"PARAMETER": VALUE}}</tool_call>',
            "structured": '[{{"name": TOOL, "arguments": {{"PARAMETER": VALUE}}}}]',
        },
    ),
    "finished calls": _make(_EXAMPLE),
    "finished calls, where to begin and end in short": _make(_EXAMPLE, ends=_SHORT_ENDS),
    "finished calls, where to begin and end": _make(_EXAMPLE, ends=_ENDS),
    "like finished calls": _make(_LIKE),
    "like finished calls, where to begin and end": _make(_LIKE, ends=_ENDS),
    "like finished calls, where to begin and end, how to write values": _make(
        _LIKE, ends=_ENDS, more=_VALUES
    ),
    "parts named, finished calls": _make(_PARTS),
    "parts named, finished calls, where to begin and end": _make(_PARTS, ends=_ENDS),
    "parts named, finished calls, where to begin and end, how to write values": _make(
        _PARTS, ends=_ENDS, more=_VALUES
    ),
    "finished calls, one tool twice, where to begin and end": _make(_THREE, _TWICE, _ENDS),
    "finished calls, one tool twice, where to begin and end, how to write values": _make(
        _THREE, _TWICE, _ENDS, _VALUES
    ),
    "like finished calls, one tool twice, where to begin and end": _make(_LIKE, _TWICE, _ENDS),
    "parts named, finished calls, one tool twice, where to begin and end": _make(
        _PARTS, _TWICE, _ENDS
    ),
    (
        "parts named, finished calls, one tool twice, where to begin and end, how to write values"
    ): _make(_PARTS, _TWICE, _ENDS, _VALUES),
    "one for each thing asked, finished calls, one tool twice, where to begin and end": _make(
        _EACH, _TWICE, _ENDS
    ),
    (
        "one for each thing asked, finished calls, one tool twice, where to begin and end, "
        "how to write values"
    ): _make(_EACH, _TWICE, _ENDS, _VALUES),
}
del CANDIDATES["finished calls, where to begin and end in short"]["structured"]  # it has one form

_AGENT_RULES = (
    "\n\nMake each call that the task asks for once, in the order asked. Leave out a parameter "
    "with a default unless the "
    "task sets it. "
)
_AGENT_END = (
    "The answer is the result of the call, "
    "or for several calls the list of their results in the order asked."
)
_AGENT_TOOLS = (
    "These functions are defined already; call them with keyword arguments:\n\n{signatures}"
)
_AGENT_TASK = (
    "Solve the task with Python. In every turn write one short thought, then one code block "
    "between <code> and </code>. You "
    "then see what the code printed, or its error. Give the answer with final_answer, in a code "
    "block too. "
)
_ONE_CALL = (
    "Task: How many loaves fit into an oven with 12 shelves?\n"
    "I call the tool and look at its result.\n<code>\n"
    "result = count_loaves(shelves=12)\nprint(result)\n</code>\nObservation:\n48\n"
    "The result is the answer.\n<code>\n"
    "final_answer({one})\n</code>"
)
_TWO_CALLS = (
    "Task: How long does a pot of 3 litres take to boil, and how many cups does it fill?\n"
    "I call both tools in the order "
    "asked and look at their results.\n<code>\nminutes = boil_pot(pot_litres=3)\n"
    "cups = fill_cups(pot_litres=3)\n"
    "print(minutes, cups)\n</code>\nObservation:\n7.5 12\nThe answer is the list of both results.\n"
    "<code>\n"
    "final_answer({two})\n</code>"
)


def _join_agent_prompt(examples: str) -> str:
    return f"{_AGENT_TASK}{examples}\n\n{_AGENT_TOOLS}{_AGENT_RULES}{_AGENT_END}"


AGENT_CANDIDATES = {
    "a form to fill in": (
        "Solve the task with Python. In every turn write one short thought, then one code block, "
        "like this:\n"
        "I call the tool and look at its result.\n<code>\nresult = TOOL(PARAMETER=VALUE)\n"
        "print(result)\n</code>\n"
        f"You then see what the code printed, or its error. {_AGENT_TOOLS}{_AGENT_RULES}"
        "End with final_answer(value): the result of the call, or for several calls the list of "
        "their results in the order "
        "asked."
    ),
    "one example with one call": _join_agent_prompt(
        "An example, with another tool than yours:\n\n" + _ONE_CALL.format(one="result")
    ),
    "two examples, answers written out": _join_agent_prompt(
        "Two examples, with other tools than yours:\n\n"
        + _ONE_CALL.format(one="48")
        + "\n\n"
        + _TWO_CALLS.format(two="[7.5, 12]")
    ),
    "two examples, answers by name": _join_agent_prompt(
        "Two examples, with other tools than yours:\n\n"
        + _ONE_CALL.format(one="result")
        + "\n\n"
        + _TWO_CALLS.format(two="[minutes, cups]")
    ),
}
