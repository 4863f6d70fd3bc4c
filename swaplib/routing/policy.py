"""Which answers of the SLM are sent: those that pass the validators, and that it is sure of."""

import math
from dataclasses import dataclass
from typing import Literal

from swaplib.formats.router import PolicyRecord
from swaplib.metrics import Prediction
from swaplib.routing.validators import Known, Refusal, find_refusal
from swaplib.rows import Generation

Signal = Literal["mean_logprob", "min_logprob"]
SIGNALS: tuple[Signal, ...] = ("mean_logprob", "min_logprob")
CONFIDENCE = "confidence"  # named as the validators are, where it refuses


@dataclass(frozen=True)
class Policy:
    """What an answer must pass.

    `signal` is the log-probability of an answer's tokens that must be at least `threshold`: their
    mean or their least. None for no such limit.
    """

    has_validators: bool
    signal: Signal | None = None
    threshold: float | None = None

    def to_record(self) -> PolicyRecord:
        """The policy as a file has it."""
        return {
            "has_validators": self.has_validators,
            "signal": self.signal,
            "threshold": self.threshold,
        }

    def find_refusal(
        self, known: Known, generation: Generation, answer: Prediction | None
    ) -> Refusal | None:
        """Why an answer is not sent, by the first thing that refuses it; None when it is.

        Args:
            known: What is known of its request.
            generation: The SLM's answer.
            answer: The same, parsed; None for what has not the form of an answer.
        """
        if self.has_validators and (refusal := find_refusal(known, generation, answer)):
            return refusal
        if self.signal is None or self.threshold is None:
            return None
        confidence = getattr(generation, self.signal)
        if confidence is None or math.isnan(confidence):
            return Refusal(CONFIDENCE, f"the model does not say how sure it is ({self.signal})")
        if confidence < self.threshold:
            limit = f"{self.signal} {confidence:.3f} is below {self.threshold:.3f}"
            return Refusal(CONFIDENCE, limit)
        return None
