"""Replaces keys and personal data in an exchange, the same value by the same word wherever it is.

"Mail ann@x.org" with the gold {"to": "ann@x.org"} becomes "Mail [EMAIL_1]" with
{"to": "[EMAIL_1]"}: the row still asks the same, and nothing personal is in it. Only patterns are
known here: names of people and addresses of houses are not found.
"""

import re
from functools import partial
from typing import Any

from swaplib.masking import SECRETS

EMAIL = r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,5}[A-Za-z]{2,24}\b"
IBAN = r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"
# `+` and digits, or three groups as in North America; other runs of digits may be anything
PHONE = (
    r"(?<![\w+])\+\d{1,3}(?:[ ()./-]{0,2}\d){6,12}\b|(?<![\w-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}\b"
)
PATTERNS = {
    "EMAIL": re.compile(EMAIL),
    "IBAN": re.compile(IBAN),
    "PHONE": re.compile(PHONE),
}


def is_iban(text: str) -> bool:
    """Whether a text's check digits are those of an IBAN (ISO 13616: the remainder by 97 is 1)."""
    plain = text.replace(" ", "")
    digits = "".join(str(int(character, 36)) for character in plain[4:] + plain[:4])
    return int(digits) % 97 == 1


class Placeholders:
    """The words that stand for the private values of one exchange."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], str] = {}

    @property
    def count(self) -> int:
        """How many different values were replaced."""
        return len(self._words)

    def replace(self, value: Any) -> Any:
        """A JSON value with its private texts replaced, keys of objects left as they are."""
        if isinstance(value, str):
            return self._replace_text(value)
        if isinstance(value, list):
            return [self.replace(item) for item in value]
        if isinstance(value, dict):
            return {name: self.replace(item) for name, item in value.items()}
        return value

    def _replace_text(self, text: str) -> str:
        text = SECRETS.sub(self._replace_secret, text)
        for kind, pattern in PATTERNS.items():
            text = pattern.sub(partial(self._replace_match, kind), text)
        return text

    def _replace_match(self, kind: str, found: re.Match[str]) -> str:
        return self._name(kind, found[0])

    def _replace_secret(self, found: re.Match[str]) -> str:
        kept = next((text for text in found.groupdict().values() if text), "")
        return kept + self._name("SECRET", found[0][len(kept) :])

    def _name(self, kind: str, text: str) -> str:
        if kind == "IBAN" and not is_iban(text):
            return text
        plain = text.casefold() if kind == "EMAIL" else text
        plain = re.sub(r"[^\w+]", "", text) if kind in ("IBAN", "PHONE") else plain
        of_kind = sum(known == kind for known, _ in self._words)
        return self._words.setdefault((kind, plain), f"[{kind}_{of_kind + 1}]")
