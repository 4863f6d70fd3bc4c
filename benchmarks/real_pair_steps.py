"""The stages of a real pair's record (real_pair.py), each in the home of its settings."""

from collections.abc import Callable

from swaplib.agents import build, capture, distill, flywheel
from swaplib.agents.agent import AgentOptions
from swaplib.data import dataset
from swaplib.evaluation import decision, evaluate, parity
from swaplib.files import write_json
from swaplib.metrics import Track
from swaplib.models.adapters import read_card
from swaplib.models.names import CAPTURED
from swaplib.settings import ROOT, Settings
from swaplib.training import finetune

SPLITS = ("val", "test")
BEFORE = "azure,azure-native,azure-shots4,slm,slm-full,slm-native,slm-shots4"
AFTER = "slm_ft,slm_ft-full,slm_ft-native"
SIZES, NOISE = {"batch_size": 128, "concurrency": 64}, {"val": 0, "test": 30}
AGENTS = 48  # tasks in flight


def evaluate_before(settings: Settings, track: Track) -> None:
    """Both models, also few-shot and natively, the SLM also unquantised; then the decision."""
    for split in SPLITS:
        evaluate.run_models(settings, track, BEFORE, split=split, noise_rows=NOISE[split], **SIZES)
    decision.decide(settings, track)


def build_rows(settings: Settings, example: str) -> None:
    """The rows of an example task, as 01 builds them by default."""
    sizes = {"toolcall": "340/60/100", "structured": "600/80/100"}
    dataset.build_dataset(settings, str(ROOT / "examples" / example), sizes)


def evaluate_natively(settings: Settings, track: Track) -> None:
    """Both models natively, over the rows of both splits."""
    for split in SPLITS:
        evaluate.run_models(settings, track, "azure-native,slm-native", split=split, **SIZES)


def train_track(settings: Settings, track: Track) -> None:
    """What 04 does, with the fixed settings; also where the rule says 0, to see what it gives."""
    finetune.fine_tune(settings, track, force=True)


def evaluate_after(settings: Settings, track: Track) -> None:
    """The fine-tuned SLM, parity, and the second decision."""
    for split in SPLITS:
        evaluate.run_models(settings, track, AFTER, split=split, **SIZES)
    parity.measure_parity(settings, track, "slm_ft", n_rows=16, batch_size=16)
    decision.decide_again(settings, track, "slm_ft")


def capture_tasks(settings: Settings) -> None:
    """What 06 does."""
    capture.capture_trajectories(settings, concurrency=AGENTS)


def build_captured(settings: Settings, fold: str) -> None:
    """What 07 does, for one fold."""
    build.build_captured(settings, fold=int(fold))


def distil(settings: Settings) -> None:
    """The agent's adapter of a home's build."""
    distill.distill_agent(settings)


def train_captured(settings: Settings, track: Track) -> None:
    """The track's adapter of a home's captured rows."""
    distill.fine_tune_captured(settings, track)


def close_loop(settings: Settings, track: Track) -> None:
    """The end of 08, with the adapters that the home has; and which tasks each agent has solved."""
    cards = {"agent": read_card(settings.adapter_of(distill.AGENT)) or None}
    cards["rows"] = read_card(settings.adapter_of(CAPTURED.name_adapter(track))) or None
    _, agents = flywheel.close_loop(settings, track, "sample", None, AgentOptions(), AGENTS, cards)
    solved = {}
    for model, run in agents.items():
        solved[model] = dict(zip(run.capture.facts["task_ids"], run.solved, strict=True))
    write_json(settings.evaluation / "solved.json", solved)


_STEPS: tuple[Callable[..., None], ...] = (
    build_rows,
    evaluate_before,
    evaluate_natively,
    train_track,
    evaluate_after,
    capture_tasks,
    build_captured,
    distil,
    train_captured,
    close_loop,
)
STEPS = {step.__name__: step for step in _STEPS}
