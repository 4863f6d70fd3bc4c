"""The loop's last stage: what was captured, kept, trained and gained, in one file.

Its runs are in the capture's Langfuse session.
"""

import json
from collections.abc import Mapping
from typing import Any

from swaplib.agents import agent_eval, build_files, distill
from swaplib.agents.agent import AgentOptions
from swaplib.evaluation import evaluate
from swaplib.evaluation.comparison import filter_comparable, open_compared
from swaplib.evaluation.stats import DEFAULT_MARGIN
from swaplib.files import hash_file
from swaplib.formats.run_card import RunCard
from swaplib.metrics import Track
from swaplib.models.adapters import explain_adapter_mismatch
from swaplib.models.checkpoints import hash_checkpoint
from swaplib.models.dataset_form import choose_pair
from swaplib.models.names import CAPTURED, ModelName
from swaplib.runs import new_folder, open_run, read_metrics
from swaplib.settings import Settings, check_sizes, show_path


def evaluate_captured(
    settings: Settings, track: Track, question: Mapping[str, Any], session_id: str
) -> dict[str, Any]:
    """Ask the base SLM and the adapter of captured rows 01's test rows, and compare them.

    In the form that 03 compares (choose_pair); the adapter, trained on rows as they are written by
    hand, is asked by hand in any case.

    Args:
        settings: The models run here, whatever its SLM_BASE_URL says.
        track: Whose rows are asked.
        question: `limit`, `max_new_tokens` and `batch_size`. Where 02 has asked the SLM, its rows
            and limit are taken, so that what 03 and 05 read does not change.
        session_id: The Langfuse session.

    Returns:
        `rates` by model, and `comparisons` of `slm`, and of `azure` and `slm_ft` as far as their
        last runs answer the same question, with the adapter of captured rows.
    """
    is_native = ModelName.parse(base := choose_pair(settings, track)[1]).is_native
    captured = str(CAPTURED.in_form(is_native))
    asked = list(dict.fromkeys((captured, str(CAPTURED))))
    models = [base, *asked]
    if (settings.evaluation / f"{track}_{base}_test.json").is_file():
        evaluated = read_metrics(settings, track, base)
        limit = evaluated["run"]["max_new_tokens"]
        question = {**question, "limit": evaluated["n_rows"], "max_new_tokens": limit}
        if settings.slm_base_url:
            print(
                "the base SLM was asked at SLM_BASE_URL: that run is compared with, "
                "the adapter runs here"
            )
            models = asked
    settings = settings.model_copy(update={"slm_base_url": None})
    evaluate.run_models(settings, track, ",".join(models), **question, session_id=session_id)
    current = [*_list_current(settings, track, is_native), *asked[1:]]
    others = [base, *filter_comparable(settings, track, base, current)]
    compared = open_compared(settings, track, *others, captured)
    comparisons = compared.compare_all([(m, captured) for m in others], DEFAULT_MARGIN)
    return {"rates": compared.list_rates(), "comparisons": comparisons}


def _list_current(settings: Settings, track: Track, is_native: bool) -> list[str]:
    """Which of `azure` and `slm_ft`, in one form, have a run of the model that is there now."""
    names = [ModelName(base).in_form(is_native) for base in ("azure", "slm_ft")]
    there = [m for m in names if (settings.evaluation / f"{track}_{m}_test.json").is_file()]
    return [str(m) for m in there if m.is_hosted or _is_current(settings, track, str(m))]


def _is_current(settings: Settings, track: Track, model: str) -> bool:
    """Whether the last run of the track's adapter is of the one that is there now.

    A printed line says when it is left out.
    """
    problem = explain_adapter_mismatch(settings, track)
    if not problem:
        identity = read_metrics(settings, track, model)["run"]["identity"]
        if identity.get("adapter_sha256") != hash_checkpoint(settings.adapter_of(track)):
            problem = "its last run was of another adapter"
    if problem:
        print(f"{model} is left out: {problem}")
    return problem is None


def explain_other_rows(settings: Settings, track: Track, manifest: Mapping[str, Any]) -> str | None:
    """Why 01's test rows say nothing about the adapter of captured rows; None where they do.

    Rows captured from your own tasks are another task than xLAM's: their adapter is asked 01's test
    rows only where 01's dataset was made of the captured rows themselves.
    """
    if "own" not in manifest["made_from"]:
        return None
    name = f"{track}/test.jsonl"
    if name not in manifest["sha256"]:
        return f"no captured {track} row is in the test split"
    asked = settings.dataset / name
    if asked.is_file() and hash_file(asked) == manifest["sha256"][name]:
        return None
    return (
        f"01's {track} test rows are not those captured from your tasks. Run 01_data with "
        f"source={show_path(build_files.folder_of(settings))} in a home without another dataset "
        "(each "
        "track there needs rows in all splits), then this again"
    )


def close_loop(
    settings: Settings,
    track: Track,
    source: str,
    test_limit: int | None,
    options: AgentOptions,
    batch_size: int,
    cards: Mapping[str, RunCard | None],
) -> tuple[dict[str, Any], dict[str, agent_eval.AgentRun]]:
    """Evaluate what was distilled, and write and trace the summary.

    Args:
        settings: Its home holds the build and the adapters.
        track: The track of the captured rows; `source` is that of the capture.
        test_limit: Only the first test rows and test tasks; None for all.
        options: Limits of the agent; `max_new_tokens` is also that of the track's rows.
        batch_size: Rows in a batch, and tasks in flight.
        cards: The run cards of `agent` and `rows`. Where one is None, nothing is evaluated.

    Returns:
        The content of `05_eval/flywheel_<track>.json`, and the agents' runs.
    """
    sizes = {"test_limit": test_limit, "max_steps": options.max_steps, "batch_size": batch_size}
    check_sizes(" (test_limit=None is all)", **sizes)
    session = (manifest := distill.read_manifest(settings))["run"]["session_id"]
    content = _make_summary(track, manifest, cards)
    agents: dict[str, agent_eval.AgentRun] = {}
    if cards["rows"]:
        question = {"limit": test_limit, "batch_size": batch_size}
        question |= {"max_new_tokens": options.max_new_tokens}
        content |= _evaluate_rows(settings, track, question, manifest)
    made_from = manifest["made_from"]
    if cards["agent"] and "log" in made_from:
        print("a log has no tasks to execute here, so the agent's adapter is not evaluated")
    elif cards["agent"]:
        fold = made_from["fold"]
        content["agent_eval"], agents = agent_eval.evaluate_agents(
            settings, source, test_limit, options, batch_size, session, fold, made_from
        )
    return _write(settings, track, content, session), agents


def _evaluate_rows(
    settings: Settings, track: Track, question: Mapping[str, Any], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """`track_eval`, or why there is none: 01's rows are of another task."""
    if reason := explain_other_rows(settings, track, manifest):
        print(f"the adapter of captured rows is asked no test rows: {reason}")
        return {"track_not_asked": reason}
    session = manifest["run"]["session_id"]
    return {"track_eval": evaluate_captured(settings, track, question, session)}


def _make_summary(
    track: Track, manifest: Mapping[str, Any], cards: Mapping[str, RunCard | None]
) -> dict[str, Any]:
    """What is known before anything is evaluated."""
    return {
        "track": track,
        "filter": manifest["filter"],
        "rows": manifest["rows"],
        "chats": manifest["chats"],
        "trained": {name: card and _shorten(card) for name, card in cards.items()},
        "track_eval": None,
        "agent_eval": None,
        "margin": DEFAULT_MARGIN,
        **{name: manifest[name] for name in ("split_rule",) if name in manifest},
    }


def _write(
    settings: Settings, track: Track, content: dict[str, Any], session: str
) -> dict[str, Any]:
    """Trace the summary and write its file."""
    folder = new_folder(settings, track, "flywheel")
    path = settings.evaluation / f"flywheel_{track}.json"
    inputs = {"session": session, "track": track}
    tags = [track, "flywheel"]
    with open_run(settings, folder, f"flywheel {track}", inputs, tags, session) as run:
        run.trace.add_event("flywheel", content)
        run.trace.finish({name: content[name] for name in ("filter", "trained")}, {})
        run.record("flywheel.json", content | {"run": {"session_id": session}}, path)
    print(f"summary: {show_path(path)}")
    return json.loads(path.read_text(encoding="utf-8"))


def _shorten(card: RunCard) -> dict[str, Any]:
    """What a summary says of a run card."""
    return {
        "rows": card["rows"],
        "steps": card["steps"],
        "final": card["final"],
        "seconds": card["seconds"],
        "departures": card["departures"],
        "run_id": card["run"]["run_id"],
    }
