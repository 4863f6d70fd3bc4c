"""Fields of a chat completion request that change nothing: they ask for what is done anyway.

Clients send them with their default values. Greedy decoding of one answer can honour these values
and no others:

    {"frequency_penalty": 0, "logprobs": false, "stop": null}    accepted
    {"frequency_penalty": 0.5}                                   refused, by its name
"""

import json
from typing import Any

from pydantic import BaseModel, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from swaplib.models.templates import OPTIONS

_GREEDY = "answers are decoded greedily here"
_TEXT = "answers are text here"
_LOGPROBS = "log probabilities are not returned"
# By field: the values that are accepted besides null, and why no others are.
_ACCEPTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "temperature": ((0,), _GREEDY),
    "frequency_penalty": ((0,), _GREEDY),
    "presence_penalty": ((0,), _GREEDY),
    "logit_bias": (({},), _GREEDY),
    "n": ((1,), "there is one answer"),
    "stop": (([], ""), "an answer ends where the model ends it"),
    "logprobs": ((False,), _LOGPROBS),
    "top_logprobs": ((0,), _LOGPROBS),
    "modalities": ((["text"],), _TEXT),
    "audio": ((), _TEXT),
    "reasoning_effort": (("none",), "the model does not think before it answers"),
    "verbosity": ((), "the model has no such setting"),
    "functions": (([],), "use tools"),
    "function_call": (("none", "auto"), "use tool_choice"),
    "web_search_options": ((), "there is no web search"),
    "prediction": ((), "predicted outputs are not supported"),
    "store": ((False,), "nothing is stored"),
    "service_tier": (("auto", "default"), "there is one tier"),
}


class NeutralFields(BaseModel):
    """Fields that change nothing: each may be null, or have a value that `_ACCEPTED` lists."""

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

    @field_validator(*_ACCEPTED)
    @classmethod
    def check_neutral(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a value that could change an answer, and say what to send."""
        accepted, why = _ACCEPTED[str(info.field_name)]
        if value is None:
            return value
        for one in accepted:
            if value == one and isinstance(value, bool) == isinstance(one, bool):  # False == 0
                return value
        advice = " or ".join([*(f"send {json.dumps(one)}" for one in accepted), "leave it out"])
        raise PydanticCustomError("neutral", "{why}: {advice}", {"why": why, "advice": advice})

    @field_validator("chat_template_kwargs")
    @classmethod
    def check_options(cls, value: Any) -> Any:
        """Refuse options of the chat template, but for those that it is rendered with anyway."""
        fixed = {name: option for name, option in OPTIONS.items() if not callable(option)}
        if value is None or (isinstance(value, dict) and value.items() <= fixed.items()):
            return value
        raise PydanticCustomError(
            "neutral",
            "chat templates are rendered with {fixed} here: leave other options out",
            {"fixed": json.dumps(fixed)},
        )
