"""Chat templates: with which options each is filled, and what their control tokens look like. It knows no model.

Some templates let a model think before it answers, or write today's date, unless they are told otherwise; then a run that
goes on another day would ask another question. So the options are fixed, the same wherever a chat is rendered:

    render(tokenizer, [{"role": "user", "content": "Hi"}])   "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

DAY = datetime(2024, 7, 26)  # what Llama 3.2's template takes where it is told no date
OPTIONS = {"enable_thinking": False, "date_string": DAY.strftime("%d %b %Y"), "strftime_now": DAY.strftime}

CONTROL_TOKENS = re.compile(r"<[|｜][^|｜<>\s]{1,40}[|｜]>|\[/?INST\]|<(?:start|end)_of_turn>|</s>")


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]], has_generation_prompt: bool = True) -> str:
    """A chat as its tokenizer's template writes it.

    Args:
        tokenizer: One of transformers', with a chat template.
        messages: The turns.
        has_generation_prompt: Whether the text goes on to where the next answer begins.
    """
    options = {"add_generation_prompt": has_generation_prompt, "tokenize": False}
    return tokenizer.apply_chat_template(list(messages), **options, **OPTIONS)


def list_options(tokenizer: Any) -> dict[str, Any]:
    """The options that a tokenizer's template really uses, by name; a function stands as the day that it writes."""
    templates = tokenizer.chat_template or ""
    text = templates if isinstance(templates, str) else templates.get("default", "")
    used = {name: value for name, value in OPTIONS.items() if re.search(rf"\b{name}\b", text)}
    return {name: DAY.date().isoformat() if callable(value) else value for name, value in used.items()}
