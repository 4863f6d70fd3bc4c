"""Where a gold's values come from: the request, a default, or neither.

It reads no file and judges no model. Of a row like {"symbol": "ETH", "interval": "1h"} for "Price
of ETH?", where `interval` has the default "1h":

    symbol    request    the request names it, as a word or a number of its own
    interval  default    a model that omits defaults, as the prompt asks, does not state it
"""

import re
from functools import lru_cache
from typing import Any, Literal

Origin = Literal["request", "default", "neither"]

# "-" is a minus only where a number may begin: 10-5 has no -5. 7,100 is one number, 1,2,345 three.
_NUMBER = re.compile(r"(?<![\w.])(?:(?<![^\s(\[,=:])-)?\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")


def find_origin(value: Any, parameter: dict[str, Any], request: str) -> Origin:
    """Where a gold value comes from.

    Defaults are looked at first, since a short one is in many requests by chance.

    Args:
        value: A JSON value.
        parameter: Its parameter, as tool_schemas.parse_tool gives it; `{}` where there is none.
        request: The request alone.
    """
    if is_default(value, parameter):
        return "default"
    return "request" if is_named(value, request) else "neither"


def is_default(value: Any, parameter: dict[str, Any]) -> bool:
    """Whether a value is its parameter's default; xLAM writes some numbers as texts."""
    return "default" in parameter and str(parameter["default"]) == str(value)


def is_named(value: Any, request: str) -> bool:
    """Whether a request names a value, as words of its own; of a container, all its parts."""
    if value in ("", [], {}) or isinstance(value, bool) or value is None:
        return False
    if isinstance(value, dict | list):
        parts = value.values() if isinstance(value, dict) else value
        return all(is_named(part, request) for part in parts)
    words, numbers = _read_request(request)
    if not isinstance(value, str):
        return value in numbers
    text = " ".join(value.lower().split())
    if text not in words:
        return False
    return bool(re.search(rf"(?<!\w)(?<!\d\.){re.escape(text)}(?!\w)(?!\.\d)", words))


@lru_cache(maxsize=4)
def _read_request(request: str) -> tuple[str, frozenset[float]]:
    """A request in lower case with single spaces, and its numbers; cached for a row's values."""
    plain = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), request)
    return " ".join(request.lower().split()), frozenset(map(float, _NUMBER.findall(plain)))
