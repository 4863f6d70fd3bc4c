"""Why an answer of the SLM is not trusted: each validator looks at one thing, and says why.

They are pure functions over an output and what is known of its request. None of them knows the
gold: a wrong answer that looks right passes.

    known      the tool `area` with a required `radius`, a number in cm; "A circle of 5 cm?"
    answer     {"name": "area", "arguments": {"radius": 7}}
    refused    values: radius of area is 7, and the request does not name it
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from swaplib.data.answerability import is_default
from swaplib.data.facts import RowFacts, list_parts
from swaplib.metrics import JsonDocument, Prediction, Track
from swaplib.routing.named_values import is_identifier, is_in_request, must_be_named
from swaplib.routing.schema_fit import find_misfit
from swaplib.rows import Generation


@dataclass(frozen=True)
class Known:
    """What validators know of a request; what is not known is not checked.

    `request` is what is asked, `tools` are those offered, as the OpenAI API has them, and `schema`
    is the JSON Schema of the answer.
    """

    track: Track
    request: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    schema: dict[str, Any] | None = None

    @classmethod
    def from_facts(
        cls, track: Track, fact: RowFacts | None, schema: dict[str, Any] | None
    ) -> "Known":
        """What is known of a row.

        Args:
            track: The row's track.
            fact: Its facts; None for own rows without any.
            schema: The JSON Schema of the dataset's answers, where one was brought.
        """
        if fact is None:
            return cls(track, None, (), schema)
        return cls(track, fact.request, tuple(fact.tools), fact.schema or schema)

    @property
    def has_facts(self) -> bool:
        """Whether anything beyond the form can be checked."""
        return bool(self.tools) or self.schema is not None

    def list_calls(
        self, answer: Prediction
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
        """The calls of offered tools in an answer: name, arguments, schema of the parameters."""
        parameters = {
            tool["function"]["name"]: tool["function"].get("parameters") or {}
            for tool in self.tools
        }
        for name, arguments in list_parts(answer):
            if name is not None and name in parameters:
                yield name, arguments, parameters[name]


@dataclass(frozen=True)
class Refusal:
    """Why an answer is not sent: the validator's name and what it found."""

    validator: str
    reason: str


_ENDS = {
    "truncated": "the answer was cut off at its limit",
    "empty": "there is no text",
    "filtered": "the answer was filtered",
    "error": "there is no answer",
}
_FORMS = {"toolcall": "one tool call and nothing else", "structured": "JSON and nothing else"}


def check_end(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse what did not end by itself."""
    return _ENDS.get(generation.status)


def check_form(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse what does not parse in its track's form."""
    return f"expected {_FORMS[known.track]}" if answer is None else None


def check_tool(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse a call of a tool that is not offered, and what is no call where tools are."""
    if answer is None or not known.tools or known.schema is not None:
        return None
    offered = {tool["function"]["name"] for tool in known.tools}
    parts = list_parts(answer)
    if not parts:
        return "no tool is called"
    for name, _ in parts:
        if name not in offered:
            found = "something that is no call" if name is None else f"a call of {_show(name)}"
            return f"found {found}, which is not offered"
    return None


def check_arguments(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse calls that lack a required argument or have one that the tool does not know."""
    for name, arguments, parameters in known.list_calls(answer) if answer else ():
        required = parameters.get("required") or []
        if missing := [key for key in required if key not in arguments]:
            return f"{name} is called without {', '.join(map(_show, missing))}"
        is_open = parameters.get("additionalProperties") not in (None, False) or any(
            key in parameters for key in _DECLARING
        )
        declared = parameters.get("properties") or {}
        unknown = [] if is_open else [key for key in arguments if key not in declared]
        if unknown:
            return f"{name} has no parameter {', '.join(map(_show, unknown))}"
    return None


def check_types(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse values that are not as the tool, or the schema of the answer, declares them.

    A default is right whatever its type: some tools declare a text as that of a number.
    """
    if answer is None:
        return None
    if known.schema is not None:
        return find_misfit(known.schema, _unpack(answer))
    for name, arguments, parameters in known.list_calls(answer):
        declared = parameters.get("properties") or {}
        own = {
            key: value
            for key, value in arguments.items()
            if not is_default(value, _as_object(declared.get(key)))
        }
        optional = {key: part for key, part in parameters.items() if key != "required"}
        if find_misfit(optional, arguments) and (misfit := find_misfit(optional, own)):
            return f"{name}: {misfit}"
    return None


def check_values(known: Known, generation: Generation, answer: Prediction | None) -> str | None:
    """Refuse ids, addresses and amounts with a unit that the request does not name.

    A model that invents one of these is wrong, while it may well word a title by itself.
    """
    if answer is None or known.request is None:
        return None
    for name, arguments, parameters in known.list_calls(answer):
        declared = parameters.get("properties") or {}
        for key, value in arguments.items():
            parameter = _as_object(declared.get(key))
            if is_default(value, parameter) or not must_be_named(key, value, parameter):
                continue
            if not is_in_request(value, known.request, is_identifier(key, parameter)):
                return f"{_show(key)} of {name} is {_show(value)}, and the request does not name it"
    return None


# Keywords that declare parameters elsewhere than under `properties`: check_types looks at them.
_DECLARING = ("$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "$dynamicRef")

Validator = Callable[[Known, Generation, Prediction | None], str | None]
VALIDATORS: dict[str, Validator] = {
    "end": check_end,
    "form": check_form,
    "tool": check_tool,
    "arguments": check_arguments,
    "types": check_types,
    "values": check_values,
}


def find_refusal(known: Known, generation: Generation, answer: Prediction | None) -> Refusal | None:
    """The first refusal, in the order of VALIDATORS; None for an answer that passes them all."""
    for name, validator in VALIDATORS.items():
        try:
            reason = validator(known, generation, answer)
        except RecursionError:
            reason = "the answer or its schema is nested too deeply"
        except Exception as error:  # hostile schemas fail in many ways, and nothing is let through
            reason = f"the answer cannot be checked ({type(error).__name__})"
        if reason:
            return Refusal(name, reason)
    return None


def _unpack(answer: Prediction) -> Any:
    """The JSON value of an answer."""
    if isinstance(answer, JsonDocument):
        return answer.value
    return {"name": answer.name, "arguments": answer.arguments}


def _as_object(schema: Any) -> dict[str, Any]:
    return schema if isinstance(schema, dict) else {}


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]} …"
