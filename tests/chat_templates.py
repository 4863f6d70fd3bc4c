"""Public chat templates as published, and the packaged checkpoint with one of them."""

import json
import os
import shutil
from pathlib import Path

from swaplib.models.local_checkpoint import Checkpoint

ALTERNATE = (
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception("
    "'Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
)
GEMMA_2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}"
    + ALTERNATE
    + "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}"
    "{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}"
    "{% endif %}"
)
MISTRAL_OLD = (
    "{{ bos_token }}{% for message in messages %}"
    + ALTERNATE
    + "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported!') }}"
    "{% endif %}{% endfor %}"
)
DROPS_SYSTEM = (  # writes the roles that it knows, and no word about the others
    "{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n"
    "{% elif m.role == 'assistant' %}"
    "Assistant: {{ m.content }}{{ eos_token }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
# the parts of Qwen3's and Llama 3.2's that write a chat without tools
QWEN_3 = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>' + '\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}"
    "{%- endif %}"
)
LLAMA_32 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}"
    "{%- endif %}{%- if messages[0]['role'] == 'system' %}"
    "{%- set system_message = messages[0]['content']|trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n"
    "' }}{{- 'Cutting Knowledge Date: December 2023\n' }}"
    "{{- 'Today Date: ' + date_string + '\n\n' }}{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n"
    "'+ message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
GEMMAS_TOKENS = {
    "<|im_start|>": "<start_of_turn>",
    "<|im_end|>": "<end_of_turn>",
    "<|endoftext|>": "<eos>",
}


def copy_with_template(
    checkpoint: Checkpoint, folder: Path, template: str, renamed: dict[str, str] | None = None
) -> Path:
    """The packaged checkpoint, weights linked, with another template; tokens may be renamed."""
    folder.mkdir()
    for file in checkpoint.path.iterdir():
        if file.suffix == ".safetensors":
            os.symlink(file.resolve(), folder / file.name)
        else:
            shutil.copyfile(file, folder / file.name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        text = (folder / name).read_text()
        for old, new in (renamed or {}).items():
            text = text.replace(f'"{old}"', f'"{new}"')
        (folder / name).write_text(text)
    (folder / "chat_template.jinja").write_text(template)
    return folder


def copy_as_gemma(checkpoint: Checkpoint, folder: Path) -> Path:
    """A Gemma 2 as far as texts go: no system role, and turns end with another token than texts.

    Its config says only how texts end, as the first ones did.
    """
    copy_with_template(checkpoint, folder, GEMMA_2, GEMMAS_TOKENS)
    for name, changes in (
        ("tokenizer_config.json", {"eos_token": "<eos>"}),
        ("generation_config.json", {"eos_token_id": 0}),
    ):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | changes))
    return folder
