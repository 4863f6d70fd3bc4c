"""How tables, long texts, rates and boxes look in a notebook. It knows nothing of what they say."""

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import pandas as pd

from swaplib.formats.evidence import Interval
from swaplib.masking import make_visible

if TYPE_CHECKING:
    from IPython.display import HTML
    from pandas.io.formats.style import Styler

SHOWN = 20_000  # characters of a text
SCROLLING = (
    "max-height:18em;max-width:27em;overflow:auto;white-space:pre-wrap;overflow-wrap:anywhere;"
    "font-size:0.85em"
)
BOX = "border:2px solid #333;border-left-width:12px;padding:0.6em 1em;margin:0.5em 0;max-width:72em"
BOX_CELL = "padding:0.15em 0;vertical-align:top;text-align:left;white-space:normal;background:none"


def style(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A small table that reads well as HTML: text on the left, escaped."""
    cell = [("text-align", "left"), ("vertical-align", "top"), ("white-space", "nowrap")]
    head = [("text-align", "left"), ("border-bottom", "1px solid #888")]
    title = [("text-align", "left"), ("font-weight", "bold"), ("padding", "0.4em 0")]
    selectors = {"td": cell, "th": head, "caption": title}
    return (
        frame.style.format(escape="html", na_rep="")
        .set_table_styles([{"selector": name, "props": css} for name, css in selectors.items()])
        .set_caption(caption)
        .hide(axis="index")
    )


def style_texts(frame: pd.DataFrame, caption: str = "") -> "Styler":
    """A table of long texts, of dtype object: escaped, lines kept, long cells scroll."""
    return style(frame, caption).format(
        lambda text: (
            f'<div class="tex2jax_ignore" style="{SCROLLING}">{escape(_show_text(str(text)))}</div>'
        )
    )


def _show_text(text: str) -> str:
    """A text with its control characters made visible; the rest of a very long one is cut."""
    cut = f" … (cut: {len(text):,} characters)" if len(text) > SHOWN else ""
    return make_visible(text[:SHOWN]) + cut


def format_rate(rate: float, interval: Interval) -> str:
    """A rate with its 95% interval, for example `0.76 [0.67, 0.83]`."""
    return f"{rate:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]"


def make_box(head: str, lines: Sequence[tuple[str, str]]) -> "HTML":
    """A headline in a box, with a line below it for each label and text."""
    from IPython.display import HTML

    rows = "".join(
        '<tr style="background:none">'
        f'<td style="{BOX_CELL};padding-right:1em;white-space:nowrap"><b>{escape(label)}</b></td>'
        f'<td style="{BOX_CELL}">{escape(text)}</td></tr>'
        for label, text in lines
    )
    title = f'<div style="font-size:1.6em;font-weight:bold">{escape(head)}</div>'
    table = f'<table style="border:none;margin:0.3em 0 0 0">{rows}</table>'
    return HTML(f'<div style="{BOX}">{title}{table}</div>')
