"""Chat templates: how each is filled, and what its control tokens look like. It knows no model.

Some templates let a model think before it answers, or write today's date, unless they are told
otherwise; then a run that resumes on another day would ask another question. So the options are
fixed, the same wherever a chat is rendered:

    render(tokenizer, [{"role": "user", "content": "Hi"}])
    -> "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"

Some have no place for a system message: they refuse it (Gemma 2) or drop it. Its text then goes
before the first request:

    fold_system([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}])
    -> [{"role": "user", "content": "Be brief.\\n\\nHi"}]
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

DAY = datetime(2024, 7, 26)  # what Llama 3.2's template takes where it is told no date
OPTIONS: dict[str, Any] = {
    "enable_thinking": False,
    "date_string": DAY.strftime("%d %b %Y"),
    "strftime_now": DAY.strftime,
}

# What a run says of itself where the system text goes before the request.
FOLDED = {"system": "folded"}
TRIAL = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say hi."}]
_SAID = "Hello there."

CONTROL_TOKENS = re.compile(r"<[|｜][^|｜<>\s]{1,40}[|｜]>|\[/?INST\]|<(?:start|end)_of_turn>|</s>")


def render(
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    has_generation_prompt: bool = True,
    tools: Sequence[dict[str, Any]] = (),
) -> str:
    """A chat as its tokenizer's template writes it.

    Args:
        tokenizer: One of transformers', with a chat template.
        messages: The turns, as the OpenAI API has them. A template that knows no calls is given
            them in words, and their results where it knows no role `tool` either; turns without
            `tool_calls` or `tool_call_id` stay as they are.
        has_generation_prompt: Whether the text ends where the next answer begins.
        tools: What the model may call, as the OpenAI API has it. A template that knows no tools is
            given them in words.
    """
    if tools and not knows_tools(tokenizer):
        messages, tools = _say_tools(messages, tools), ()
    template = _choose_template(tokenizer.chat_template)
    if not re.search(r"\btool_calls\b", template):
        messages = [_say_calls(message) for message in messages]
        if not re.search(r"""(["'])tool\1""", template):
            messages = _say_results(messages)
    if not takes_system(template):
        messages = fold_system(messages)
    offered = {"tools": list(tools)} if tools else {}
    return tokenizer.apply_chat_template(
        list(messages),
        add_generation_prompt=has_generation_prompt,
        tokenize=False,
        **OPTIONS,
        **offered,
    )


def knows_tools(tokenizer: Any) -> bool:
    """Whether a tokenizer's template writes tools."""
    return bool(re.search(r"\btools\b", _choose_template(tokenizer.chat_template)))


def fold_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages, the text of the system messages in front put before the first request.

    A blank line is between. Where no request follows them, they are one themselves.
    """
    system = list(takewhile(lambda message: message["role"] == "system", messages))
    rest = list(messages[len(system) :])
    texts = [message["content"] for message in system]
    if rest and system and rest[0]["role"] == "user":
        texts.append(rest.pop(0)["content"])
    return [{"role": "user", "content": "\n\n".join(texts)}, *rest] if system else rest


@lru_cache
def takes_system(template: str) -> bool:
    """Whether a template writes a system message, as far as it can write the request alone."""
    if not template:
        return True
    whole = _try(template, TRIAL)
    alone = _try(template, TRIAL[1:])
    return alone is None or (whole is not None and TRIAL[0]["content"] in whole)


def _try(template: str, messages: Sequence[Mapping[str, Any]]) -> str | None:
    """A chat as a template writes it, without a tokenizer; None where it refuses."""
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    values: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), "")
    values |= OPTIONS
    try:
        # Annotated as a text; what it returns are texts and masks.
        rendered: Any = render_jinja_template(
            [list(map(dict, messages))],
            chat_template=template,
            add_generation_prompt=True,
            **values,
        )
    except (TemplateError, TypeError):
        return None
    [text], _ = rendered
    return text


def read_template(folder: Path) -> str:
    """The text of a checkpoint's chat template, from its files; empty where there is none."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if not config.is_file():
        return ""
    template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}
    return _choose_template(template)


def find_turn_end(tokenizer: Any) -> str:
    """The special token that a template writes behind an assistant's turn; else the end of texts.

    The two differ: Gemma's turns end with `<end_of_turn>`, its texts with `<eos>`.
    """
    _, said, tail = _render_plain(tokenizer).rpartition(_SAID)
    special = _list_special(tokenizer) if said else []
    return next((text for text in special if tail.lstrip().startswith(text)), tokenizer.eos_token)


def find_markers(tokenizer: Any) -> set[str]:
    """The special tokens that a template writes around turns of plain text."""
    text = _render_plain(tokenizer)
    return {token for token in _list_special(tokenizer) if token in text}


def _render_plain(tokenizer: Any) -> str:
    """A chat of two turns and a system text; empty where the template can write none."""
    from jinja2 import TemplateError

    messages = [*TRIAL, {"role": "assistant", "content": _SAID}]
    try:
        return render(tokenizer, messages, has_generation_prompt=False)
    except (TemplateError, TypeError, ValueError):
        return ""


def _list_special(tokenizer: Any) -> list[str]:
    """The texts of the added tokens that a tokenizer marks as special."""
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _say_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[dict[str, Any]]
) -> list[Mapping[str, Any]]:
    """The messages with the tools in front of the last request."""
    listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    last = max((i for i, message in enumerate(messages) if message["role"] == "user"), default=0)
    said = f"You may call these tools:\n{listed}\n\n{messages[last]['content'] or ''}"
    return [*messages[:last], {**messages[last], "content": said}, *messages[last + 1 :]]


def _say_calls(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message with its calls as the text that makes them."""
    if not message.get("tool_calls"):
        return message
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in message["tool_calls"]]
    return {
        "role": message["role"],
        "content": "\n".join([message["content"] or "", *calls]).lstrip("\n"),
    }


def _say_results(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The messages with results of calls as turns of the user.

    Adjacent ones are one turn, since many templates want turns to alternate. Results are known by
    their `tool_call_id`: an observation that a chat was trained with has none, and is no result.
    """
    said: list[Mapping[str, Any]] = []
    for is_result, turns in groupby(messages, key=lambda message: "tool_call_id" in message):
        if is_result:
            results = [f"Result of {turn['name']}: {turn['content']}" for turn in turns]
            said.append({"role": "user", "content": "\n".join(results)})
        else:
            said += turns
    return said


def _choose_template(template: str | Mapping[str, str] | None) -> str:
    """The template that chats are written by: of several, the one named so."""
    return template if isinstance(template, str) else (template or {}).get("default", "")


def list_options(tokenizer: Any) -> dict[str, Any]:
    """The options that a tokenizer's template uses, by name; a function is given by its day."""
    text = _choose_template(tokenizer.chat_template)
    used = {name: value for name, value in OPTIONS.items() if re.search(rf"\b{name}\b", text)}
    day = DAY.date().isoformat()
    return {name: day if callable(value) else value for name, value in used.items()}
