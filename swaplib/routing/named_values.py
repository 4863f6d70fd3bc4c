"""Which values a request has to name, since no model may make them up: ids, addresses, amounts.

user_id = "u-17"            an id, by the parameter's name
to = "ann@example.org"      an address, by what it is
weight = 70, "in kg"        an amount, by the unit that its parameter describes
title = "Quarterly plan"    none of these: a model may word it by itself
"""

import re
from collections.abc import Mapping
from typing import Any

from swaplib.data.answerability import is_named

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_NAMED = {"id", "ids", "uuid", "guid", "email", "emails", "mail", "url", "urls", "uri", "link"}
_CALENDAR = {"year", "month", "day", "hour", "minute"}  # October is the month 10
_FORMATS = {"email", "idn-email", "uri", "iri", "uri-reference", "uuid"}
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]{2,}|https?://\S+", re.IGNORECASE)
_AMOUNT = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s?(%|[a-zA-Z°€$£]{1,12})")
_UNIT = re.compile(
    r"%|\b(percent(age)?|degrees?|celsius|fahrenheit|kelvin|[mck]?m|(kilo|centi|milli)?met(er|re)s?"
    r"|miles?|feet|foot|inch(es)?|k?g|mg|(kilo|milli)?grams?|pounds?|lbs?|seconds?|minutes?|hours?"
    r"|days?|weeks?|months?|years?|dollars?|usd|eur|euros?|volts?|amp(ere)?s?|ohms?|watts?|joules?"
    r"|newtons?|pascals?|lit(er|re)s?|hertz|k?hz|[kmg]b|bytes?)\b",
    re.IGNORECASE,
)


def must_be_named(key: str, value: Any, parameter: Mapping[str, Any]) -> bool:
    """Whether a value is of a kind that a request has to name: an id, an address, an amount."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return False
    words = [word.lower() for word in _WORDS.findall(key)]
    if (words and words[-1] in _NAMED) or parameter.get("format") in _FORMATS:
        return True
    if isinstance(value, str):
        return bool(_ADDRESS.fullmatch(value) or _AMOUNT.fullmatch(value))
    if words and words[-1] in _CALENDAR:
        return False
    described = f"{' '.join(words)} {parameter.get('description') or ''}"
    return isinstance(value, int | float) and bool(_UNIT.search(described))


def is_in_request(value: Any, request: str) -> bool:
    """Whether a request names a value.

    Of an address the scheme may be missing there, of an amount the unit, of a list in a text
    whatever is between its parts.
    """
    if isinstance(value, str):
        if amount := _AMOUNT.fullmatch(value):
            return is_named(float(amount[1].replace(",", "")), request) or is_named(value, request)
        address = re.sub(r"^https?://", "", value, flags=re.IGNORECASE).rstrip("/")
        parts = [part for part in value.split(",") if part.strip()]
        return is_named(address, request) or all(is_named(part, request) for part in parts)
    return is_named(value, request)
