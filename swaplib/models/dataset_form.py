"""In which form a dataset's models are compared: as prompts write it by hand, or natively.

A log's golds are what the hosted LLM answered to tools and response formats of the API. Asked by
hand it would be another model than the one that is to be replaced, so a log's rows are compared
natively, and all others by hand. 01's manifest says which rows are a log's.
"""

from swaplib.files import read_json
from swaplib.metrics import Track
from swaplib.models.names import ModelName
from swaplib.settings import Settings

BASES = ("azure", "slm")  # the two that are compared


def is_hosted_gold(settings: Settings) -> bool:
    """Whether the golds are what the hosted LLM answered in a log."""
    path = settings.dataset / "manifest.json"
    return path.is_file() and read_json(path, "Run 01_data again.").get("gold") == "hosted"


def name_usual(settings: Settings, shots: int = 0) -> str:
    """What 02 asks unless it is told otherwise: `azure,slm`, or both natively for a log.

    Args:
        settings: The home whose manifest is read.
        shots: Examples are turns in the form by hand, so with them no model is asked natively.
    """
    return ",".join(_name_both(is_native=is_hosted_gold(settings) and not shots))


def name_adapted(settings: Settings) -> str:
    """The fine-tuned SLM in the dataset's form: `slm_ft`, or `slm_ft-native` for a log."""
    return str(ModelName("slm_ft", is_native=is_hosted_gold(settings)))


def choose_pair(settings: Settings, track: Track) -> tuple[str, str]:
    """The hosted LLM and the SLM that 03 compares: `azure` and `slm`, or both natively for a log.

    Where both of a log were asked by hand alone, these runs are compared, and a line says so.
    """
    by_hand, natively = _name_both(is_native=False), _name_both(is_native=True)
    if not is_hosted_gold(settings):
        return by_hand
    if _are_there(settings, track, by_hand) and not _are_there(settings, track, natively):
        print(
            f"the golds of {track} are what the hosted LLM answered natively, and 02 has asked by "
            f"hand: {' and '.join(by_hand)} are compared. Run 02_eval without models to compare "
            f"{' and '.join(natively)}."
        )
        return by_hand
    return natively


def _name_both(is_native: bool) -> tuple[str, str]:
    hosted, slm = (str(ModelName(base, is_native=is_native)) for base in BASES)
    return hosted, slm


def _are_there(settings: Settings, track: Track, models: tuple[str, str]) -> bool:
    """Whether 02 has left a test run of each."""
    return all((settings.evaluation / f"{track}_{model}_test.json").is_file() for model in models)
