"""The fields of a chat completion request that change nothing, as long as they say what is done anyway.

Clients send them filled with their defaults. Greedy decoding of one answer can honour these values and no others:

    {"frequency_penalty": 0, "logprobs": false, "stop": null}    taken
    {"frequency_penalty": 0.5}                                   refused, by its name
"""

import json
from typing import Any

from pydantic import BaseModel, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from swaplib.models.templates import OPTIONS

_GREEDY = "answers are decoded greedily here"
_TEXTS = "answers are whole texts here"
# by field: what may stand there besides null, and why nothing else may
_TAKEN: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature": ((0,), _GREEDY),
    "frequency_penalty": ((0,), _GREEDY),
    "presence_penalty": ((0,), _GREEDY),
    "logit_bias": (({},), _GREEDY),
    "n": ((1,), "there is one answer"),
    "stop": (([], ""), "an answer ends where the model ends it"),
    "logprobs": ((False,), "they are not sent"),
    "top_logprobs": ((0,), "they are not sent"),
    "modalities": ((["text"],), _TEXTS),
    "audio": ((), _TEXTS),
    "reasoning_effort": (("none",), "the model does not think before it answers"),
    "verbosity": ((), "the model is told nothing about it"),
    "functions": (([],), "give tools"),
    "function_call": (("none", "auto"), "give tool_choice"),
    "web_search_options": ((), "nothing is searched"),
    "prediction": ((), "no answer is predicted"),
    "store": ((False,), "nothing is kept"),
    "service_tier": (("auto", "default"), "there is one tier"),
}


class NeutralFields(BaseModel):
    """Fields that change nothing: each may be null, or what `_TAKEN` lists."""

    temperature: Any = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None
    n: Any = None
    stop: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    modalities: Any = None
    audio: Any = None
    reasoning_effort: Any = None
    verbosity: Any = None
    functions: Any = None
    function_call: Any = None
    web_search_options: Any = None
    prediction: Any = None
    store: Any = None
    service_tier: Any = None
    chat_template_kwargs: Any = None

    @field_validator(*_TAKEN)
    @classmethod
    def take_neutral(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a value that could change an answer, in words."""
        taken, why = _TAKEN[str(info.field_name)]
        if value is None or any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in taken
        ):
            return value
        listed = " or ".join([*(f"send {json.dumps(one)}" for one in taken), "leave it out"])
        raise PydanticCustomError("neutral", "{why}: {listed}", {"why": why, "listed": listed})

    @field_validator("chat_template_kwargs")
    @classmethod
    def take_options(cls, value: Any) -> Any:
        """Refuse options of the chat template other than those with which it is filled in anyway."""
        fixed = {name: option for name, option in OPTIONS.items() if not callable(option)}
        if value is None or (isinstance(value, dict) and value.items() <= fixed.items()):
            return value
        what = {"fixed": json.dumps(fixed)}
        raise PydanticCustomError(
            "neutral", "templates are filled in with {fixed} here, and nothing else", what
        )
