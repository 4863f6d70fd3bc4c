"""Texts made fit to be shown, sent and saved: keys masked, unprintable characters escaped.

Standard library only.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MIN_SECRET = 8
# control characters but tab and newline, changes of writing direction, halves of surrogate pairs
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# Each alternative starts at a word and runs over what follows once, so that the work grows with
# the text. The groups named `kept…` are not secret: they stay.
SECRETS = re.compile(
    r"""
    \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}+
    | \b(?:ghp|gho|ghs|glpat|hf|xox[abp])[_-][A-Za-z0-9-]{16,}+
    | \bAKIA[A-Z0-9]{16}\b
    | (?<![\w-])eyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]{10,}+
    | -----BEGIN\ [A-Z ]{0,40}PRIVATE\ KEY-----(?s:.*?)
      (?:-----END\ [A-Z ]{0,40}PRIVATE\ KEY-----|\Z)
    | (?P<kept>[Bb]earer\ )[\w.~+/-]{12,}+=*+
    | (?P<kept_basic>[Bb]asic\ )(?=[A-Za-z+/]*(?:[0-9=]|[a-z][A-Z]))[A-Za-z0-9+/]{12,}+=*+
    | (?P<kept_name>api[-_]key[=:]|_(?:KEY|TOKEN|SECRET|PASSWORD)["']?\s?[=:]\s?["']?)[^\s&"']{8,}+
    | (?P<kept_scheme>://)[^\s/:@]{0,100}+:[^\s/@]{1,200}+(?=@)
    """,
    re.VERBOSE,
)
KEPT = ("kept", "kept_basic", "kept_name", "kept_scheme")


def mask_secrets(value: Any, secrets: Sequence[str] = ()) -> Any:
    """A JSON value with `***` in place of the given secrets and of what looks like a key.

    A secret of less than 8 characters is not masked: it would be found inside of ordinary words.
    """
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, "***") if len(secret) >= MIN_SECRET else value
        return SECRETS.sub(lambda match: "".join(match[name] or "" for name in KEPT) + "***", value)
    if isinstance(value, Mapping):
        return {
            mask_secrets(key, secrets): mask_secrets(part, secrets) for key, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [mask_secrets(part, secrets) for part in value]
    return value


def replace_surrogates(value: Any) -> Any:
    """A JSON value whose texts can be encoded: surrogate pairs are joined, halves become U+FFFD."""
    if isinstance(value, str):
        if value.isascii():
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {replace_surrogates(key): replace_surrogates(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [replace_surrogates(part) for part in value]
    return value


def make_visible(text: str) -> str:
    """A text in which characters that are not shown, or that change others, are escaped."""
    return _UNSEEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
