"""What comes back for a call becomes a row's generation, or stops the run.

The run is stopped where every further call would end in the same way. It makes no call. What
refusals and ends mean is in endpoints.py; how a body is read, in completions.py.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from swaplib.models.completions import Completion, read_completion
from swaplib.models.endpoints import HOPELESS, Refusal, Streak, find_meaning, quote, read_refusal
from swaplib.models.native import NativeForm
from swaplib.prompts import Message
from swaplib.rows import Generation, Status
from swaplib.web import parse_body

_GREEDY = ("temperature", "max_tokens")
# Status and finish reason of a row that the model itself could not answer: it never saw the prompt,
# or thought too long.
_OWN_LIMITS: dict[str | None, tuple[Status, str]] = {
    "too long": ("truncated", "context_length_exceeded"),
    "cut off": ("truncated", "length"),
    "filtered": ("filtered", "content_filter"),
}


class CallFailed(Exception):  # noqa: N818 - reads as what happened
    """A call failed as every further call would: wrong key, wrong deployment, refused parameter."""


@dataclass(frozen=True)
class Call:
    """One call: what was sent, and when (time.perf_counter)."""

    messages: Sequence[Message]
    form: NativeForm | None
    start: float = field(default_factory=time.perf_counter)

    @property
    def fields(self) -> dict[str, Any]:
        """What goes with the messages of a row that is asked natively."""
        return self.form.to_request() if self.form else {}

    def measure_ms(self) -> float:
        """Milliseconds since the call began."""
        return (time.perf_counter() - self.start) * 1000

    def fail(self, reason: str) -> Generation:
        """The generation of a call without an answer."""
        return Generation("", "error", None, None, None, self.measure_ms(), reason)


def refusal_of(status: int, content: bytes) -> Refusal:
    """What an answer with an HTTP status from 400 on says."""
    return read_refusal(status, parse_body(content))


@dataclass(frozen=True)
class Reader:
    """Reads the answers of one endpoint.

    `place` and `deployment` name it in errors, `variables` is what to check; `streak` counts over
    all calls of a client.
    """

    place: str
    deployment: str | None
    variables: str
    api_key: str = field(repr=False)
    max_retries: int
    streak: Streak

    def read_answer(self, content: bytes, call: Call) -> Generation:
        """Read an answer with status 200; raises CallFailed where every call gets an error."""
        completion = read_completion(parse_body(content))
        if completion is None:
            return call.fail("the answer is no chat completion")
        if isinstance(completion, Refusal):
            return self.read_refusal(completion, "an error inside a 200:", call)
        return self._read_completion(completion, call)

    def _read_completion(self, completion: Completion, call: Call) -> Generation:
        """Keep text, finish reason and usage; half an answer that ended in an error is none."""
        reason = completion.finish_reason
        if completion.end == "error":
            failure = completion.failure
            said = self._quote(failure, call) if failure else self._keep_word(reason or "")
            return call.fail(f"the answer ended in an error: {said}")
        self.streak.end()
        output = completion.text
        if call.form:
            output = call.form.read_message(completion.text, completion.calls)
        return Generation(
            output=output,
            status=completion.end or ("ok" if output.strip() else "empty"),
            finish_reason=None if reason is None else self._keep_word(reason) or "unknown",
            prompt_tokens=completion.prompt_tokens,
            completion_tokens=completion.completion_tokens,
            latency_ms=call.measure_ms(),
        )

    def read_refusal(self, refusal: Refusal, what: str, call: Call) -> Generation:
        """Read a refusal; raises CallFailed for one that every call would get.

        A filtered or too long prompt is no error: it is the model's own limit.

        Args:
            refusal: What the endpoint said.
            what: How it came, for the row's error.
            call: The call that was refused.
        """
        meaning = find_meaning(refusal)
        means = meaning.means if meaning else None
        if means in _OWN_LIMITS:
            self.streak.end()
            status, reason = _OWN_LIMITS[means]
            return Generation("", status, reason, None, None, call.measure_ms())
        said = self._quote(refusal, call)
        self._stop_for_parameter(refusal, means, call.fields, said)
        if means == "quota":
            raise CallFailed(
                f"{self.place}: the account's quota, credit or budget is used up ({said}). What "
                "was answered is saved. Fill it up, or choose another deployment, and run again."
            )
        if means == "unknown model" or refusal.status in (401, 403, 404):
            raise CallFailed(f"{self.place} answered {said}. Check {self.variables}.")
        is_final = 400 <= refusal.status < 500 and refusal.status not in (408, 409, 429)
        reasons = (refusal.status, refusal.code, refusal.type, refusal.param)
        if is_final and self.streak.is_hopeless(reasons):
            raise CallFailed(
                f"{self.place} refused the first {HOPELESS} calls, all alike: {said}. No further "
                f"call was made. Check {self.variables}, and what the endpoint takes."
            )
        retries = "" if is_final else f", after up to {self.max_retries} retries"
        return call.fail(f"{what} {said}{retries}")

    def _stop_for_parameter(
        self, refusal: Refusal, means: str | None, fields: dict[str, Any], said: str
    ) -> None:
        """Raise CallFailed where a refusal is about a part of the request that all calls have."""
        names = f"{refusal.param} {refusal.message}"
        who = f"the deployment {self.deployment} refuses"
        if means == "limit too high":
            raise CallFailed(f"{who} the token limit: {said}. Choose a lower max_new_tokens.")
        greedy = _find_name(_GREEDY, refusal.param if means is None else names)
        if greedy and means in (None, "refused parameter"):
            raise CallFailed(
                f"{who} `{greedy}` ({said}): as reasoning models do, it does not decode greedily "
                "with a token limit. Choose another deployment, or set AZURE_REASONING=on: it is "
                "then asked without a temperature, may answer differently each time, and "
                "noise_rows says by how much."
            )
        if refused := _find_name((*fields, "json_schema"), names) if fields else None:
            raise CallFailed(
                f"{who} `{refused}` ({said}), which asking natively needs. Leave -native out of "
                "`models`, or choose another deployment."
            )
        if means == "refused parameter":
            raise CallFailed(f"{who} a part of every request: {said}. Choose another deployment.")

    def _quote(self, refusal: Refusal, call: Call) -> str:
        """Status, code and words of a refusal, as far as ledgers and traces may have them."""
        words = quote(refusal, [self.api_key], [message["content"] for message in call.messages])
        code = self._keep_word(refusal.code or refusal.type) or "no code"
        return f"{refusal.status} ({code}){f': {words}' if words else ''}"

    def _keep_word(self, word: str) -> str | None:
        """What a server says, where it is one plain word and not the key."""
        return word if re.fullmatch(r"[\w.-]{1,64}", word) and self.api_key not in word else None


def _find_name(names: Sequence[str], text: str) -> str | None:
    """The first of some names that is a word of a text."""
    return next((name for name in names if re.search(rf"\b{name}\b", text)), None)
