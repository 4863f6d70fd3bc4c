"""The runs that 03 and 05 compare: which there are, which the rule is applied to, in which pairs.

It reads metrics files only, and decides nothing.
"""

from dataclasses import dataclass

from swaplib.evaluation.comparison import find_few_shot, find_full, find_other_form
from swaplib.metrics import Track
from swaplib.models.dataset_form import BASES, choose_pair
from swaplib.models.names import ModelName
from swaplib.settings import Settings

Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Contenders:
    """Models by what they are, all of which answered the question of the candidate's comparison.

    `reference` is the hosted LLM and `base` the SLM, in the candidate's form. `few_shot` are SLMs
    with examples in the prompt, `hosted` the hosted LLM with such; `full` has unquantised runs by
    their 4-bit model; `others` are the same models in the other form: natively, or by hand.
    """

    reference: str
    base: str
    candidate: str
    few_shot: list[str]
    hosted: list[str]
    full: dict[str, str]
    others: list[str]

    @property
    def slms(self) -> tuple[str, ...]:
        """The base SLM, those with examples, and the candidate."""
        return tuple(dict.fromkeys((self.base, *self.few_shot, self.candidate)))

    def list_all(self) -> list[str]:
        """Every model, the hosted LLM first."""
        return [self.reference, *self.hosted, *self.slms, *self.full.values(), *self.others]

    def list_ruled(self, reference: str) -> tuple[str, ...]:
        """The models that the rule is applied to, against the hosted LLM asked in one way or other.

        Where it is asked natively these are SLMs asked in either form, else only by hand.
        """
        if not ModelName.parse(reference).is_native:
            return self.slms
        return self.slms + tuple(m for m in self.others if not ModelName.parse(m).is_hosted)

    def find_native_reference(self) -> str:
        """The hosted LLM as it is asked natively; raises ValueError when there is no such run."""
        if "azure-native" in (self.reference, *self.others):
            return "azure-native"
        raise ValueError(
            "native=True compares with the hosted LLM asked natively, and there is no such run of "
            "these rows. Run 02_eval with -p models azure-native,slm-native first."
        )

    def pair_few_shot(self) -> Pairs:
        """Each run with examples with the models without, and with the candidate."""
        pairs = []
        for model in self.hosted:
            pairs += [(self.reference, model), (model, self.candidate)]
        for model in self.few_shot:
            pairs += [(self.reference, model), (self.base, model), (model, self.candidate)]
        return pairs

    def pair_full(self) -> Pairs:
        """Each unquantised run with its 4-bit one, and with the hosted LLM."""
        pairs = []
        for base, model in self.full.items():
            pairs += [(model, base), (self.reference, model)]
        return pairs

    def pair_forms(self) -> Pairs:
        """Each model with itself asked natively, and the hosted LLM with each SLM, both natively.

        As far as there are runs in both forms.
        """
        models = (self.reference, self.base, self.candidate, *self.others)
        by_hand = dict.fromkeys(ModelName.parse(model).in_form(False) for model in models)
        names = {str(name): str(name.in_form(True)) for name in by_hand}
        pairs = [(base, name) for base, name in names.items() if {base, name} <= set(models)]
        if "azure-native" in models:
            natives = [name for name in names.values() if name in models]
            pairs += [("azure-native", name) for name in natives if name != "azure-native"]
        return pairs


def find_two(settings: Settings, track: Track) -> Contenders:
    """The two models of 03 (choose_pair), and the runs that are shown beside them."""
    reference, base = pair = choose_pair(settings, track)
    full = find_full(settings, track, base)
    others = find_other_form(settings, track, pair)
    return Contenders(reference, base, base, [], [], {base: full} if full else {}, others)


def find_contenders(settings: Settings, track: Track, candidate: str) -> Contenders:
    """Find the runs that answer the question of the last runs; others are left out in words."""
    is_native = ModelName.parse(candidate).is_native
    reference, base = (str(ModelName(name).in_form(is_native)) for name in BASES)
    few_shot = find_few_shot(settings, track, base)
    hosted = find_few_shot(settings, track, reference)
    full = {
        model: name
        for model in dict.fromkeys((base, candidate))
        if (name := find_full(settings, track, model))
    }
    others = find_other_form(settings, track, dict.fromkeys((reference, base, candidate)))
    return Contenders(reference, base, candidate, few_shot, hosted, full, others)
