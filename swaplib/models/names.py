"""The names of models: read, written and put in words here and nowhere else. It runs no model.

A name says which weights answer and how they are asked:

    slm_ft-captured-shots4    the SLM with the adapter of captured rows, and four examples
"""

import re
from dataclasses import dataclass, replace

from swaplib.prompts import MAX_SHOTS

KINDS = {"azure": "hosted", "slm": "local", "slm_ft": "local, adapter"}
FORMS = (
    f"{', '.join(KINDS)}, and behind it, each where it is wanted and in this order, -captured "
    f"(slm_ft only), -full (slm and slm_ft only), -native, and -shots1 to -shots{MAX_SHOTS}"
)
_NAME = re.compile(
    rf"({'|'.join(KINDS)})(-captured)?(-full)?(-native)?(?:-shots([1-9][0-9]{{0,3}}))?"
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A name in its parts: `base[-captured][-full][-native][-shotsN]`.

    `base`: `azure` (the hosted LLM), `slm`, or `slm_ft` (the SLM with an adapter). `is_captured`:
    the adapter of captured rows in place of the one of train rows. `is_full`: the same checkpoint,
    not quantised. `is_native`: asked through the model's own tool calls. `shots`: examples in every
    prompt, 0 for none.
    """

    base: str
    is_captured: bool = False
    is_full: bool = False
    is_native: bool = False
    shots: int = 0

    def __post_init__(self) -> None:
        if self.base not in KINDS:
            raise ValueError(f"unknown model {self.base!r}: expected one of {FORMS}")
        if self.is_captured and self.base != "slm_ft":
            self._refuse("captured rows make an adapter, and only slm_ft has one")
        if self.is_full and self.is_hosted:
            self._refuse("only a local checkpoint can be taken without its quantisation")
        if not 0 <= self.shots <= MAX_SHOTS:
            self._refuse(f"a prompt takes 0 to {MAX_SHOTS} examples, not {self.shots}")

    def _refuse(self, reason: str) -> None:
        raise ValueError(f"there is no model {str(self)!r}: {reason}; expected one of {FORMS}")

    @classmethod
    def parse(cls, text: str) -> "ModelName":
        """Read a name; str() writes it back.

        Raises:
            ValueError: It is none; lists the forms that a name can have.
        """
        match = _NAME.fullmatch(text)
        if not match:
            raise ValueError(f"unknown model {text!r}: expected one of {FORMS}")
        base, captured, full, native, shots = match.groups()
        return cls(base, bool(captured), bool(full), bool(native), int(shots or 0))

    def __str__(self) -> str:
        marks = {"captured": self.is_captured, "full": self.is_full, "native": self.is_native}
        marks |= {f"shots{self.shots}": self.shots != 0}
        return "-".join([self.base, *(mark for mark, is_there in marks.items() if is_there)])

    @property
    def is_hosted(self) -> bool:
        """Whether this is the hosted LLM, however it is asked."""
        return self.base == "azure"

    @property
    def label(self) -> str:
        """The name as a person reads it, for example `slm-shots4 (local, 4 examples)`."""
        words = {
            "captured rows": self.is_captured,
            "not quantised": self.is_full,
            "native tool calls": self.is_native,
        }
        words |= {f"{self.shots} example{'s' * (self.shots > 1)}": self.shots != 0}
        said = [KINDS[self.base], *(word for word, is_said in words.items() if is_said)]
        return f"{self} ({', '.join(said)})"

    def name_adapter(self, track: str) -> str | None:
        """This model's adapter for Settings.adapter_of: `toolcall-captured`; or None."""
        if self.base != "slm_ft":
            return None
        return f"{track}-captured" if self.is_captured else track

    def in_form(self, is_native: bool) -> "ModelName":
        """The same model asked natively, or by hand."""
        return replace(self, is_native=is_native)

    def with_shots(self, shots: int) -> "ModelName":
        """The name with examples that are asked for apart from it; 0 leaves it as it is.

        Raises:
            ValueError: The name says another number already, or a prompt does not take so many.
        """
        if shots and self.shots not in (0, shots):
            raise ValueError(
                f"shots={shots} and the model {str(self)!r} ask for different examples: say it in "
                "one place"
            )
        return replace(self, shots=shots or self.shots)


CAPTURED = ModelName("slm_ft", is_captured=True)


def parse_models(models: str, shots: int = 0) -> list[ModelName]:
    """Read names with commas between: `azure,slm-shots4`; `shots` goes to those that say none.

    Raises:
        ValueError: A name is none, says another number of examples than `shots`, or is there
            twice.
    """
    names = [ModelName.parse(word.strip()).with_shots(shots) for word in models.split(",")]
    if len(set(names)) < len(names):
        raise ValueError(f"models={models!r} names a model twice")
    return names
