import json
import re

import pytest

from benchmarks import prompt_candidates as candidates
from swaplib.agents import agent_prompt, tools
from swaplib.data.facts import list_parts
from swaplib.metrics import TRACKS, format_tool_call, parse_gold
from swaplib.prompts import ROW_PROMPTS, build_messages, build_prompt
from swaplib.settings import ROOT


def read_examples(track: str) -> list[str]:
    """The lines of a track's instruction that are finished answers."""
    instruction = build_prompt(track, ["SIGNATURE"], "REQUEST").partition("SIGNATURE")[0]
    return [line for line in instruction.splitlines() if line.startswith(("<tool_call", "[{"))]


def list_shipped_names() -> set[str]:
    """Every name of a tool or parameter that a shipped raw row offers."""
    lines = (
        (ROOT / "slm_swap" / "02_dataset" / "source" / "xlam_sample.jsonl").read_text().splitlines()
    )
    offered = [tool for line in lines for tool in json.loads(json.loads(line)["tools"])]
    return {name for tool in offered for name in (tool["name"], *tool["parameters"])}


@pytest.mark.parametrize(("track", "n_calls"), [("toolcall", 1), ("structured", 3)])
def test_an_instruction_shows_finished_answers_in_the_form_that_is_scored(track, n_calls):
    (example,) = read_examples(track)
    parts = list_parts(parse_gold(track, example))
    assert len(parts) == n_calls
    assert all(name and arguments for name, arguments in parts)
    gold = parse_gold(track, example)
    body = {"name": gold.name, "arguments": gold.arguments} if track == "toolcall" else gold.value
    written = (
        format_tool_call(**body) if track == "toolcall" else json.dumps(body, separators=(",", ":"))
    )
    assert example == written


@pytest.mark.parametrize("track", TRACKS)
def test_no_shipped_row_offers_a_tool_or_parameter_of_an_instructions_example(track):
    parts = list_parts(parse_gold(track, read_examples(track)[0]))
    names = {name for part in parts for name in (part[0], *part[1])}
    assert not names & list_shipped_names()


@pytest.mark.parametrize("track", TRACKS)
def test_an_instruction_has_no_form_to_fill_in(track):
    assert not re.search(r"\b[A-Z]{4,}\b", build_prompt(track, [], "").replace("JSON", ""))


def test_the_agents_examples_call_nothing_that_is_offered_and_end_with_an_answer():
    calls = re.findall(r"(\w+)\((\w*)=?", agent_prompt.AGENT_PROMPT.partition("{signatures}")[0])
    names = {name for call in calls for name in call if name} - {
        "print",
        "final_answer",
        "result",
        "minutes",
    }
    assert names
    assert not names & (list_shipped_names() | set(tools.TOOLS))
    assert agent_prompt.AGENT_PROMPT.count("final_answer(") == 2
    assert not re.search(r"\b[A-Z]{4,}\b", agent_prompt.AGENT_PROMPT)


def test_what_the_project_asks_with_is_among_what_was_measured():
    for track in TRACKS:
        assert ROW_PROMPTS[track] in [
            of_tracks.get(track) for of_tracks in candidates.CANDIDATES.values()
        ]
    assert agent_prompt.AGENT_PROMPT in candidates.AGENT_CANDIDATES.values()


@pytest.mark.parametrize("track", TRACKS)
def test_braces_in_a_request_or_a_tool_stay_as_they_are(track):
    assert "{x} {}" in build_prompt(track, ["f: {y}"], "{x} {}")
    assert "f: {y}" in build_prompt(track, ["f: {y}"], "{x} {}")


@pytest.mark.parametrize("track", TRACKS)
def test_messages_are_one_system_message_and_the_prompt(track):
    system, user = build_messages(track, "the prompt")
    assert system["role"] == "system"
    assert system["content"]
    assert user == {"role": "user", "content": "the prompt"}
