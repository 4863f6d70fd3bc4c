"""Schema-bound decoding with the packaged model: every answer fits, and free prompts stay free."""

import json

import jsonschema
import pytest
import torch

from swaplib.evaluation import evaluate
from swaplib.metrics import score_row
from swaplib.models.grammars import name_library
from swaplib.models.native import call_schema

pytestmark = pytest.mark.slow

DAYS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 20},
        "days": {"type": "integer", "minimum": 1, "maximum": 30},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
SWITCH = {
    "type": "object",
    "properties": {"is_on": {"enum": [True, False]}},
    "required": ["is_on"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def model(slm):
    return slm.model


def answer(model, schemas, **options) -> dict[int, str]:
    prompts = [
        model.checkpoint.render([{"role": "user", "content": f"Two nights in Rome, please ({i})."}])
        for i in range(len(schemas))
    ]
    hook = model.constrain(schemas)
    found = model.generate(prompts, 48, 4, logits_hook=hook, **options)
    return {i: generation.output for i, generation in found if generation.status == "ok"}


def test_answers_fit_their_own_schemas_and_a_free_one_is_as_without(model):
    schemas = [DAYS, None, SWITCH, DAYS, SWITCH]
    found = answer(model, schemas)
    for i, schema in enumerate(schemas):
        if schema is not None:
            jsonschema.validate(json.loads(found[i]), schema)
    alone = answer(model, [None] * 5)
    assert found.get(1) == alone.get(1)


def test_memory_that_runs_out_begins_rows_again_under_the_same_grammar(model, monkeypatch):
    whole = answer(model, [SWITCH, DAYS, SWITCH])
    calls, real = [], torch.Tensor.masked_fill

    def fail_once(self, *args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")
        return real(self, *args)

    monkeypatch.setattr(torch.Tensor, "masked_fill", fail_once)
    assert answer(model, [SWITCH, DAYS, SWITCH]) == whole
    assert len(calls) > 3


def test_a_schema_that_cannot_bind_is_refused_in_words(model):
    with pytest.raises(ValueError, match="cannot bind the decoding"):
        model.constrain([{"type": "object", "properties": {"a": {"type": "no such type"}}}])


def test_an_slm_that_is_asked_natively_calls_the_offered_tool_whatever_it_would_have_said(
    shipped_home,
):
    run = evaluate.run_model(
        shipped_home, "toolcall", "slm-native", limit=2, max_new_tokens=96, batch_size=2
    )
    ended = [line for line in run.ledger if line.generation.status == "ok"]
    assert ended
    assert all(line.scores["valid_call"] and line.scores["name_match"] for line in ended)
    assert run.metrics["run"]["grammar"] == name_library()


def test_structured_answers_are_unwrapped_calls(shipped_home):
    run = evaluate.run_model(
        shipped_home, "structured", "slm-native", limit=1, max_new_tokens=128, batch_size=1
    )
    line = run.ledger[0]
    if line.generation.status == "ok":
        assert score_row("structured", "[]", line.generation.output)["json_valid"]
        assert all(
            set(call) == {"name", "arguments"} for call in json.loads(line.generation.output)
        )


def test_references_within_tools_bind(model):
    parameters = {
        "type": "object",
        "properties": {"r": {"$ref": "#/$defs/r"}},
        "$defs": {"r": {"type": "integer"}},
    }
    tools = [
        {"type": "function", "function": {"name": name, "parameters": parameters}} for name in "ab"
    ]
    model.constrain([call_schema(tools)])


def test_a_schema_stays_compiled_for_the_next_hook(model):
    vocabulary = model.constrain([SWITCH]).vocabulary
    assert vocabulary.compile(SWITCH) is vocabulary.compile(dict(SWITCH))


def test_an_answer_that_its_grammar_cannot_follow_ends_there_and_the_others_go_on(model):
    alone = answer(model, [None, SWITCH, None])
    prompts = [
        model.checkpoint.render([{"role": "user", "content": f"Two nights in Rome, please ({i})."}])
        for i in range(3)
    ]
    hook, wrong = model.constrain([None, SWITCH, None]), model.checkpoint.encode("x")[0]

    def choose(indices, generated, logits):
        chosen = logits.argmax(-1)
        for row, (index, ids) in enumerate(zip(indices, generated, strict=True)):
            if index == 1 and len(ids) == 2:
                chosen[row] = wrong
        return chosen

    found = dict(model.generate(prompts, 48, 4, logits_hook=hook, sampler=choose))
    assert list(hook.problems) == [1]
    assert "cannot follow" in hook.problems[1]
    assert found[1].completion_tokens == 4  # two that fit, the wrong one, the end
    assert {i: found[i].output for i in (0, 2) if i in alone} == {
        i: alone[i] for i in (0, 2) if i in alone
    }
