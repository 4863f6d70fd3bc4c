"""The only place where messages are made: one fixed system message for each track, then the row's prompt.

The same list goes to Azure, to the local SLM, to training and to serving, so that a comparison compares models.
The system message is always explicit, because chat templates otherwise put in their own.
"""

import json
from pathlib import Path

from swaplib.metrics import Track, check_track
from swaplib.rows import write_text
from swaplib.settings import ROOT

Message = dict[str, str]

SYSTEM_PROMPTS: dict[Track, str] = {
    "structured": "You answer with JSON only: no prose and no code fences.",
    "toolcall": "You answer with exactly one tool call in the wrapper that is asked for, and no other text.",
}


def build_messages(track: Track, prompt: str) -> list[Message]:
    """The messages of one row: `[{"role": "system", …}, {"role": "user", "content": prompt}]`.

    Raises:
        ValueError: There is no such track.
    """
    check_track(track)
    return [{"role": "system", "content": SYSTEM_PROMPTS[track]}, {"role": "user", "content": prompt}]


def write_prompts(path: Path = ROOT / "mastra" / "src" / "prompts.json") -> Path:
    """Write the system messages where the TypeScript package imports them; returns the path."""
    content = {track: {"system": text} for track, text in SYSTEM_PROMPTS.items()}
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
