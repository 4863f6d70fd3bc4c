"""Texts of models, servers and files as they may be shown: what no page or terminal can show, or obeys, is written out."""

import re

# control characters but for tab and newline, text that turns its direction, halves of surrogate pairs
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def make_visible(text: str) -> str:
    """A text as it is, but for what cannot be shown or shows as something else: that becomes its escape."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
