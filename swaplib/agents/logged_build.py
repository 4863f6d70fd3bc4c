"""The build of a log: 01's rows as they are, and whole tool loops as chats.

A log needs no capture: what the hosted LLM did is in it. Its rows are made, audited and split by
01; here they are put beside the chats, so that 08 finds everything where a capture's build has it.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from swaplib.agents.build_files import Build, folder_of, write_files
from swaplib.agents.logged_chats import LoggedChats, read_logged_chats
from swaplib.data.audit import called_tools
from swaplib.data.facts import file_of
from swaplib.files import hash_file, hash_text, read_json
from swaplib.metrics import TRACKS, canonical_json
from swaplib.rows import SPLITS, Rows, read_rows
from swaplib.runs import lock_run, new_folder, open_run
from swaplib.settings import Settings, show_path


def build_logged(settings: Settings, log: Path) -> Build:
    """Write the rows and chats of a log. The same log gives the same bytes.

    Args:
        settings: Its home holds what 01 made of the same log.
        log: The log.

    Raises:
        FileNotFoundError: 01 was not run yet.
        ValueError: 01's dataset is of something else.
    """
    path = settings.dataset / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"no manifest at {path}. Run notebooks/01_data.ipynb first.")
    dataset = read_json(path, "Run 01_data again.")
    if dataset.get("source_sha256") != (found := hash_file(log)):
        raise ValueError(
            f"{show_path(path)} is of {dataset.get('source')}, not of {show_path(log)} as it is "
            "now. Run 01_data with this log first, in a home of its own."
        )
    made_from = {
        "log": show_path(log),
        "log_sha256": found,
        "dataset_manifest_sha256": hash_file(path),
    }
    key = hash_text(canonical_json(made_from))[:12]
    with lock_run(settings, key, new_folder(settings, "build", key)) as folder:
        chats = read_logged_chats(log, dataset["seed"])
        return _write(settings, folder, made_from, dataset, chats)


def _write(
    settings: Settings,
    folder: Path,
    made_from: dict[str, Any],
    dataset: dict[str, Any],
    found: LoggedChats,
) -> Build:
    """Filter and build as two spans of one trace; the manifest is written last."""
    rows, texts = _read_rows(settings)
    counts = _count(found)
    with open_run(settings, folder, "build", made_from, ["build"], folder.name) as run:
        run.trace.add_span("filter", "filter", {"input": made_from["log"], "output": counts})
        n_chats = Counter(chat.split for chat in found.chats)
        facts = {
            "rows": {t: {s: len(rows[t][s]) if t in rows else 0 for s in SPLITS} for t in TRACKS},
            "chats": {split: n_chats[split] for split in SPLITS if n_chats[split]},
            "tools": {split: len(_list_called(rows, split)) for split in SPLITS},
            "answerability": dataset["answerability"],
        }
        hashes = write_files(folder_of(settings), texts, found.chats, [])
        run.trace.add_span("build", "build", {"input": counts["kept"], "output": facts})
        run.trace.finish({**counts, **facts}, {"kept_share": counts["kept_share"]})
        manifest = {
            "made_from": made_from,
            "filter": counts,
            **facts,
            "sha256": hashes,
            "run": {"session_id": folder.name},
        }
        run.record("build.json", manifest, folder_of(settings) / "manifest.json")
    return Build(rows, tuple(found.chats), (), manifest)


def _read_rows(settings: Settings) -> tuple[Rows, dict[str, str]]:
    """01's rows, and the texts of their files and those of their facts."""
    rows: Rows = {}
    texts = {}
    for track in TRACKS:
        for split in SPLITS:
            path = settings.dataset / track / f"{split}.jsonl"
            if not path.is_file():
                continue
            rows.setdefault(track, {})[split] = read_rows(path, track)
            for file in (path, file_of(path)):
                texts[f"{track}/{file.name}"] = file.read_text(encoding="utf-8")
    return rows, texts


def _list_called(rows: Rows, split: str) -> set[str]:
    return {
        name
        for track, splits in rows.items()
        for row in splits[split]
        for name in called_tools(track, row.completion)
    }


def _count(found: LoggedChats) -> dict[str, Any]:
    """The counts of a filter: conversations in place of trajectories."""
    kept, dropped = len(found.chats), found.left_out.total()
    return {
        "captured": kept + dropped,
        "kept": kept,
        "kept_share": round(kept / (kept + dropped), 4) if kept + dropped else 0.0,
        "recovered": 0,
        "conversations": kept + dropped,
        "dropped": dict(found.left_out.most_common()),
    }
