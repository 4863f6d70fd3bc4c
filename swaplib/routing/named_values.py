"""Which values a request has to name, since no model may make them up: ids, addresses, amounts.

user_id = "u-17"            an id, by the parameter's name
to = "ann@example.org"      an address, by what it is
weight = 70, "in kg"        an amount, by the unit that its parameter describes
title = "Quarterly plan"    none of these: a model may word it by itself
"""

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from swaplib.data.answerability import is_named

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_NAMED = {"id", "ids", "uuid", "guid", "email", "emails", "mail", "url", "urls", "uri", "link"}
_CALENDAR = {"year", "month", "day", "hour", "minute"}  # October is the month 10
_FORMATS = {"email", "idn-email", "uri", "iri", "uri-reference", "uuid"}
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[a-z]{2,}|[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
_AMOUNT = re.compile(r"([-+]?\d[\d,]*(?:\.\d+)?)\s?(%|[a-zA-Z°€$£]{1,12})")
_UNIT = re.compile(
    r"%|\b(percent(age)?|degrees?|celsius|fahrenheit|kelvin|[mck]?m|(kilo|centi|milli)?met(er|re)s?"
    r"|miles?|feet|foot|inch(es)?|k?g|mg|(kilo|milli)?grams?|pounds?|lbs?|seconds?|minutes?|hours?"
    r"|days?|weeks?|months?|years?|dollars?|usd|eur|euros?|volts?|amp(ere)?s?|ohms?|watts?|joules?"
    r"|newtons?|pascals?|lit(er|re)s?|hertz|k?hz|[kmg]b|bytes?)\b",
    re.IGNORECASE,
)


# Chinese, Japanese, Korean, Thai: written without spaces, so an id may stand between two words.
_SPACELESS = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_BORDER = re.compile(f"(?<=[{_SPACELESS}])(?=[0-9A-Za-z])|(?<=[0-9A-Za-z])(?=[{_SPACELESS}])")
_POWER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?[eE][+-]?\d{1,2}(?![\w.])")
# What makes a longer id or address of one: A-17 does not name 17, nor x.ann@test.org ann@test.org.
_JOINED_BEFORE, _JOINED_AFTER = r"(?<!\w[-.+@])", r"(?![-.+@]\w)"
_LONGER_BEFORE, _LONGER_AFTER = r"(?<!\w[-.+@/])", r"(?![-.+@/?&=#%]\w)"


def must_be_named(key: str, value: Any, parameter: Mapping[str, Any]) -> bool:
    """Whether a value is of a kind that a request has to name: an id, an address, an amount."""
    if value is None or isinstance(value, bool) or value in ("", [], {}):
        return False
    if is_identifier(key, parameter):
        return True
    words = _read_words(key)
    if isinstance(value, str):
        return bool(_ADDRESS.fullmatch(value) or _AMOUNT.fullmatch(value))
    if words and words[-1] in _CALENDAR:
        return False
    described = f"{' '.join(words)} {parameter.get('description') or ''}"
    return isinstance(value, int | float) and bool(_UNIT.search(described))


def is_identifier(key: str, parameter: Mapping[str, Any]) -> bool:
    """Whether a parameter holds an id or an address, by its name or its format."""
    words = _read_words(key)
    return bool(words and words[-1] in _NAMED) or parameter.get("format") in _FORMATS


def _read_words(key: str) -> list[str]:
    return [word.lower() for word in _WORDS.findall(key)]


def is_in_request(value: Any, request: str, is_id: bool = False) -> bool:
    """Whether a request names a value.

    Of an address the scheme may be missing there, of an amount the unit, of a list in a text
    whatever is between its parts.

    Args:
        value: A JSON value.
        request: What is asked.
        is_id: Whether it is an id or an address, which a part of a longer one does not name.
    """
    plain = _make_plain(request)
    if isinstance(value, dict | list):
        parts = list(value.values() if isinstance(value, dict) else value)
        return bool(parts) and all(is_in_request(part, request, is_id) for part in parts)
    if not isinstance(value, str):
        return is_named(value, plain) and (not is_id or _is_own_number(value, plain))
    value = _make_plain(value)
    if not is_id and (amount := _AMOUNT.fullmatch(value)):
        return is_named(float(amount[1].replace(",", "")), plain) or is_named(value, plain)
    address = re.sub(r"^[a-z][a-z0-9+.-]*://", "", value, flags=re.IGNORECASE).rstrip("/")
    if _ADDRESS.fullmatch(value):
        return _stands_alone(address, plain)
    parts = [part for part in value.split(",") if part.strip()]
    is_whole = _stands_alone if is_id else is_named
    return is_whole(address, plain) or (bool(parts) and all(is_whole(p, plain) for p in parts))


def _is_own_number(value: float, request: str) -> bool:
    """Whether a request has a number that is no part of a longer id: not the 17 of A-17."""
    digits = re.sub(r"(?<=\d),(?=\d{3})", "", request)
    number = re.escape(f"{abs(value):g}" if isinstance(value, float) else str(abs(value)))
    return bool(re.search(rf"(?<!\w){_JOINED_BEFORE}-?0*{number}(?!\w){_JOINED_AFTER}", digits))


def _stands_alone(text: str, request: str) -> bool:
    """Whether a request has a text that is no part of a longer id or address."""
    text = " ".join(text.lower().split())
    before, after = _JOINED_BEFORE, _JOINED_AFTER
    if _ADDRESS.fullmatch(text) or "/" in text or "." in text:
        before, after = _LONGER_BEFORE, _LONGER_AFTER
    words = " ".join(request.lower().split())
    pattern = rf"(?<!\w){before}{re.escape(text)}(?!\w){after}"
    return bool(text) and re.search(pattern, words) is not None


@lru_cache(maxsize=8)
def _make_plain(text: str) -> str:
    """A text with plain digits, minus signs and powers of ten, words of all scripts apart."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2212", "-")
    plain = re.sub(r"\bminus\s+(?=\d)", "-", plain, flags=re.IGNORECASE)
    plain = re.sub(r"(?<![\w.])\.(?=\d)", "0.", plain)
    plain = _POWER.sub(lambda found: f"{Decimal(found[0]):f}", plain)
    return _BORDER.sub(" ", plain)
