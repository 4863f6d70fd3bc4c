"""The runs that 05 compares: which there are, which of them the rule is applied to, in which pairs.

It reads metrics files only, and decides nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swaplib.evaluation.comparison import find_few_shot, find_full, find_native
from swaplib.metrics import Track
from swaplib.settings import Settings

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Contenders:
    """Models by what they are, all of which answered the question of the candidate's comparison.

    `few_shot` are SLMs with examples in the prompt, `hosted` the hosted LLM with such; `full` has
    unquantised runs by their 4-bit model; `natives` are models asked natively.
    """

    candidate: str
    few_shot: list[str]
    hosted: list[str]
    full: dict[str, str]
    natives: list[str]

    @property
    def slms(self) -> tuple[str, ...]:
        """The base SLM, those with examples, and the candidate."""
        return tuple(dict.fromkeys(("slm", *self.few_shot, self.candidate)))

    def list_all(self) -> list[str]:
        """Every model, the hosted LLM first."""
        return ["azure", *self.hosted, *self.slms, *self.full.values(), *self.natives]

    def list_ruled(self, reference: str) -> tuple[str, ...]:
        """The models that the rule is applied to, against the hosted LLM asked in one way or other.

        SLMs asked natively are among them only where the hosted LLM is asked so, too.
        """
        if reference == "azure":
            return self.slms
        return self.slms + tuple(name for name in self.natives if name != reference)

    def find_native_reference(self) -> str:
        """The hosted LLM as it is asked natively; raises ValueError when there is no such run."""
        if "azure-native" in self.natives:
            return "azure-native"
        raise ValueError(
            "native=True compares with the hosted LLM asked natively, and there is no such run of "
            "these rows. Run 02_eval with -p models azure-native,slm-native first."
        )

    def pair_few_shot(self) -> Pairs:
        """Each run with examples with the models without, and with the candidate."""
        pairs = []
        for model in self.hosted:
            pairs += [("azure", model), (model, self.candidate)]
        for model in self.few_shot:
            pairs += [("azure", model), ("slm", model), (model, self.candidate)]
        return pairs

    def pair_full(self) -> Pairs:
        """Each unquantised run with its 4-bit one, and with the hosted LLM."""
        pairs = []
        for base, model in self.full.items():
            pairs += [(model, base), ("azure", model)]
        return pairs

    def pair_native(self) -> Pairs:
        """As pair_natives, for the models of 05."""
        return pair_natives(self.natives, ("azure", "slm", self.candidate))


def find_contenders(settings: Settings, track: Track, candidate: str) -> Contenders:
    """Find the runs that answer the question of the last runs; others are left out in words."""
    few_shot = find_few_shot(settings, track)
    hosted = find_few_shot(settings, track, "azure")
    full = {
        base: name
        for base in dict.fromkeys(("slm", candidate))
        if (name := find_full(settings, track, base))
    }
    natives = find_native(settings, track, dict.fromkeys(("azure", "slm", candidate)))
    return Contenders(candidate, few_shot, hosted, full, natives)


def pair_natives(natives: Sequence[str], bases: Iterable[str]) -> Pairs:
    """Each model with itself asked natively, and the hosted LLM with each SLM, both asked natively.

    Args:
        natives: The native runs that there are.
        bases: The same models, and others, as they are asked by hand-written forms.
    """
    names = {base: f"{base}-native" for base in bases}
    pairs = [(base, name) for base, name in names.items() if name in natives]
    if "azure-native" in natives:
        pairs += [("azure-native", name) for name in natives if name != "azure-native"]
    return pairs
