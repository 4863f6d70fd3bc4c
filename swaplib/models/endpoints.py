"""What an endpoint means by a refusal, or by the end of an answer: one table, each line with a public place that shows it.

It makes no call and raises nothing, whatever JSON a body is. A refusal that no line fits is an
error that keeps its status and a few of its words. Sources without a scheme are threads on
github.com.

    find_meaning(read_refusal(400, {"error": {"type": "exceed_context_size_error", ...}})).means      "too long"
"""

import json
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from swaplib.masking import mask_secrets

Means = Literal[
    "too long",
    "cut off",
    "filtered",
    "quota",
    "unknown model",
    "refused parameter",
    "limit too high",
]
End = Literal["truncated", "filtered", "error"]

LONGEST_READ = 10_000  # characters of a message that are looked at
LONGEST_SAID = 160  # characters of an endpoint's words that are kept
SAME = 16  # so many characters in a row that stand in a prompt, too, are the prompt's
HOPELESS = (
    5  # calls in a row since the first that were refused for one reason: the next one will be, too
)


@dataclass(frozen=True)
class Refusal:
    """What an endpoint says of a call that it did not answer; every text is empty where it says none."""

    status: int
    code: str = ""
    type: str = ""
    param: str = ""
    message: str = ""


@dataclass(frozen=True)
class Meaning:
    """One line of the table: where `field` of a refusal matches `words`, it means this. Anything else about it is open."""

    name: str
    means: Means
    field: Literal["status", "code", "type", "message"]
    words: str
    source: str

    def fits(self, refusal: Refusal) -> bool:
        """Whether a refusal is such a one."""
        return re.search(self.words, str(getattr(refusal, self.field)), re.IGNORECASE) is not None


MEANINGS = (
    Meaning(
        "OpenAI, Azure",
        "too long",
        "code",
        r"^context_length_exceeded$",
        "mckaywrigley/chatbot-ui/issues/102",
    ),
    Meaning(
        "llama.cpp",
        "too long",
        "type",
        r"^exceed_context_size_error$",
        "oobabooga/textgen/issues/7257",
    ),
    Meaning(
        "Mistral",
        "too long",
        "message",
        r"too large for model",
        "https://docs.mistral.ai/resources/known-limitations",
    ),
    Meaning(
        "vLLM, SGLang",
        "too long",
        "message",
        r"maximum context length",
        "vllm-project/vllm/issues/20409",
    ),
    Meaning(
        "vLLM, prompt",
        "too long",
        "message",
        r"maximum model length",
        "Gabesarch/grounded-rl/issues/16",
    ),
    Meaning(
        "vLLM, no room",
        "too long",
        "message",
        r"must be at least 1, got -",
        "vllm-project/vllm/issues/4667",
    ),
    Meaning(
        "SGLang",
        "too long",
        "message",
        r"longer than the model's context",
        "QwenLM/Qwen3/issues/1321",
    ),
    Meaning(
        "TGI",
        "too long",
        "message",
        r"`inputs`.*must (have|be)",
        "huggingface/text-generation-inference/issues/628",
    ),
    Meaning(
        "LM Studio",
        "too long",
        "message",
        r"context length of only \d",
        "lmstudio-ai/lmstudio-bug-tracker/issues/237",
    ),
    Meaning(
        "LiteLLM", "too long", "message", r"ContextWindowExceeded", "BerriAI/litellm/issues/7259"
    ),
    Meaning(
        "Anthropic",
        "too long",
        "message",
        r"prompt is too long: \d+",
        "BerriAI/litellm/issues/7259",
    ),
    Meaning(
        "Google",
        "too long",
        "message",
        r"input token count.* exceeds",
        "google-gemini/gemini-cli/issues/12214",
    ),
    Meaning(
        "swap serve",
        "too long",
        "message",
        r"^the body is larger than \d+ bytes$",
        "swaplib/serving/guard.py",
    ),
    Meaning(
        "Azure, thinking",
        "cut off",
        "message",
        r"^Could not finish the message",
        "decolua/9router/issues/972",
    ),
    Meaning(
        "Azure, prompt", "filtered", "code", r"^content_filter$", "compl-ai/compl-ai/issues/20"
    ),
    Meaning(
        "LiteLLM, filter",
        "filtered",
        "message",
        r"ContentPolicyViolation",
        "BerriAI/litellm/pull/16231",
    ),
    Meaning(
        "OpenAI, quota",
        "quota",
        "type",
        r"^insufficient_quota$",
        "langchain-ai/langchainjs/issues/1929",
    ),
    Meaning(
        "OpenAI, code",
        "quota",
        "code",
        r"^insufficient_quota$",
        "langchain-ai/langchainjs/issues/1929",
    ),
    Meaning(
        "LiteLLM, budget", "quota", "type", r"^budget_exceeded$", "BerriAI/litellm/issues/36729"
    ),
    Meaning(
        "LiteLLM, words",
        "quota",
        "message",
        r"budget has been exceeded",
        "BerriAI/litellm/issues/14144",
    ),
    Meaning("OpenRouter, credits", "quota", "status", r"^402$", "Gitlawb/openclaude/issues/43"),
    Meaning(
        "Azure, deployment",
        "unknown model",
        "code",
        r"^DeploymentNotFound$",
        "chatboxai/chatbox/issues/646",
    ),
    Meaning(
        "OpenAI, model",
        "unknown model",
        "code",
        r"^model_not_found$",
        "timkmecl/chatgpt-vscode/issues/45",
    ),
    Meaning(
        "vLLM, model",
        "unknown model",
        "message",
        r"^The model `.*` does not exist",
        "vllm-project/vllm/issues/3485",
    ),
    Meaning(
        "Ollama, model",
        "unknown model",
        "message",
        r"^model .* not found",
        "netease-youdao/QAnything/issues/555",
    ),
    Meaning(
        "LiteLLM, model",
        "unknown model",
        "message",
        r"Invalid model name",
        "BerriAI/litellm/issues/27030",
    ),
    Meaning(
        "OpenAI, limit",
        "limit too high",
        "message",
        r"max_tokens is too large",
        "tailcallhq/forgecode/issues/1185",
    ),
    Meaning(
        "OpenAI, parameter",
        "refused parameter",
        "code",
        r"^unsupported_parameter$",
        "Mai-with-u/MaiBot/issues/1406",
    ),
    Meaning(
        "OpenAI, value",
        "refused parameter",
        "code",
        r"^unsupported_value$",
        "johny-b/llmcomp/issues/69",
    ),
    Meaning(
        "Copilot",
        "refused parameter",
        "message",
        r"^Unsupported (param|val)",
        "caozhiyuan/copilot-api/issues/164",
    ),
)

# how an answer ended, in lower case; whatever is not here ended by itself
ENDS: dict[str, tuple[End, str]] = {
    "length": ("truncated", "https://platform.openai.com/docs/api-reference/chat/object"),
    "max_tokens": (
        "truncated",
        "https://strandsagents.com/latest/documentation/docs/api-reference/python/models/mistral",
    ),
    "model_length": ("truncated", "https://docs.rs/crate/mistral-openapi-client/latest"),
    "model_context_window_exceeded": ("truncated", "genkit-ai/genkit/pull/6259"),
    "content_filter": ("filtered", "https://platform.openai.com/docs/api-reference/chat/object"),
    "sensitive": ("filtered", "anomalyco/opencode/issues/44092"),
    "safety": ("filtered", "MacPaw/OpenAI/pull/312"),
    "prohibited_content": ("filtered", "MacPaw/OpenAI/pull/312"),
    "blocklist": ("filtered", "MacPaw/OpenAI/pull/312"),
    "recitation": ("filtered", "MacPaw/OpenAI/pull/312"),
    "spii": ("filtered", "MacPaw/OpenAI/pull/312"),
    "error": ("error", "maximhq/bifrost/issues/5425"),
    "network_error": ("error", "genkit-ai/genkit/pull/6259"),
    "insufficient_system_resource": ("error", "genkit-ai/genkit/pull/6259"),
    "abort": ("error", "vllm-project/vllm/issues/57082"),
}


def find_meaning(refusal: Refusal) -> Meaning | None:
    """The first line of the table that a refusal fits; None for what nobody has written down yet."""
    return next((meaning for meaning in MEANINGS if meaning.fits(refusal)), None)


def read_refusal(status: int, body: Any) -> Refusal:
    """What a body says of a refusal, in any of the shapes that endpoints have for it.

    Args:
        status: The HTTP status; an error inside a 200 takes the one that it names itself.
        body: The body's JSON, of any shape; None where it was none.
    """
    if isinstance(body, list):  # Google's gateways
        body = body[0] if body else None
    body = body if isinstance(body, Mapping) else {}
    error = body.get("error")
    if not isinstance(error, Mapping):
        said = {
            "message": error,
            "type": body.get("error_type"),
        }  # TGI, LM Studio, Ollama's own API
        error = (
            said if isinstance(error, str) and error else body
        )  # vLLM and SGLang: no `error` around it
    code, inner = to_text(error.get("code")), error.get("status_code")
    named = next((int(n) for n in (code, to_text(inner)) if re.fullmatch(r"[45]\d\d", n)), status)
    texts = [to_text(error.get(key)) for key in ("type", "param")]
    message = to_text(error.get("message")) or to_text(error.get("detail"))
    return Refusal(
        named if status < 400 else status,
        code[:200],
        *(text[:200] for text in texts),
        message[:LONGEST_READ],
    )


def make_printable(text: str, longest: int = 100) -> str:
    """A text for a terminal: in one line, without control characters, and not longer than this."""
    shown = "".join(
        character if character.isprintable() else " " for character in text[: longest * 20]
    )
    shown = " ".join(shown.split())
    return shown if len(shown) <= longest else f"{shown[: longest - 2]} …"


def quote(refusal: Refusal, secrets: Sequence[str], asked: Sequence[str]) -> str:
    """An endpoint's own words for a terminal, a ledger and a trace: masked, short, and never what it was asked.

    Args:
        refusal: What it said.
        secrets: Keys that it must not repeat.
        asked: The texts that it was sent; words that hold a part of one are left out as a whole.
    """
    said = make_printable(mask_secrets(refusal.message, secrets), LONGEST_SAID)
    sent = [" ".join(text.split()) for text in asked]
    same = min(SAME, max(8, len(said)))
    pieces = [said[i : i + same] for i in range(len(said) - same + 1)]
    is_echo = any(piece in text for text in sent for piece in pieces) or any(
        len(t) >= 8 and t in said for t in sent
    )
    return "" if is_echo else said


def to_text(value: Any) -> str:
    """A JSON value as text: a string as it is, nothing as an empty one."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value)
    except (ValueError, RecursionError):
        return ""


@dataclass
class Streak:
    """How many calls in a row, since the first of all, were refused for one and the same reason."""

    _reason: Any = None
    _n: int = 0
    _is_over: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def end(self) -> None:
        """A call was answered: what is refused from now on is refused for its own sake."""
        with self._lock:
            self._is_over = True

    def is_hopeless(self, reason: Any) -> bool:
        """Count a refusal; whether there are so many that every further call would be refused, too."""
        with self._lock:
            self._n = self._n + 1 if reason == self._reason else 1
            self._reason = reason
            return not self._is_over and self._n >= HOPELESS
