import json
import shutil

import pytest

from swaplib import labels, outbox, training
from swaplib.labels import IGNORED, Example
from swaplib.local import LocalSLM
from swaplib.rows import read_rows, write_json, write_rows
from swaplib.settings import ROOT

DATA = ROOT / "slm_swap" / "02_dataset"
ROWS = {track: read_rows(DATA / track / "train.jsonl", track)[:5] for track in ("toolcall", "structured")}


@pytest.mark.parametrize("track", ["toolcall", "structured"])
def test_labels_are_the_completion_and_its_end_of_turn_and_nothing_else(slm, track):
    examples = labels.label_rows(slm, track, ROWS[track], 2048)
    for row, example in zip(ROWS[track], examples, strict=True):
        trained = [label for label in example.labels if label != IGNORED]
        assert slm.tokenizer.decode(trained) == row.completion + "<|im_end|>"
        start = len(example.labels) - len(trained)
        assert set(example.labels[:start]) == {IGNORED}
        assert example.input_ids[start:] == trained
    records = labels.prove_labels(slm, track, ROWS[track], examples)
    assert [record["trained_text"] for record in records] == [row.completion + "<|im_end|>" for row in ROWS[track]]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda e: Example(e.input_ids, [IGNORED] * len(e.labels)), "no token is trained"),
        (lambda e: Example(e.input_ids, e.input_ids), "the trained text is"),
        (lambda e: Example(e.input_ids, [*e.labels[:-1], IGNORED]), "the trained tokens are not the end"),
        (lambda e: Example(e.input_ids[:-1], e.labels[:-1]), "the end of turn '<|im_end|>' is not trained"),
        (lambda e: Example(e.input_ids[:-3] + e.input_ids[-1:], e.labels[:-3] + e.labels[-1:]), "the trained text is"),
        (lambda e: Example(e.input_ids[1:], e.labels[1:]), "the prompt is not the one that evaluation renders"),
    ],
)
def test_the_label_proof_fails_on_planted_labels(slm, spoil, message):
    rows = ROWS["toolcall"]
    examples = labels.label_rows(slm, "toolcall", rows, 2048)
    examples[2] = spoil(examples[2])
    with pytest.raises(ValueError) as caught:
        labels.prove_labels(slm, "toolcall", rows, examples)
    assert f"toolcall row 2: {message}" in str(caught.value)


def test_a_template_that_renders_training_otherwise_than_evaluation_is_refused(slm, tmp_path):
    copy = tmp_path / slm.path.name
    shutil.copytree(slm.path, copy)
    template = (copy / "chat_template.jinja").read_text()
    (copy / "chat_template.jinja").write_text(template.replace("assistant\n", "assistant\nSure! "))
    with pytest.raises(ValueError, match="does not render a training text as prompt, completion"):
        labels.label_row(LocalSLM(copy), "toolcall", ROWS["toolcall"][0])


def test_rows_that_are_too_long_are_all_listed_and_none_is_cut(slm):
    with pytest.raises(ValueError, match=r"5 toolcall row\(s\) exceed 50 tokens[^$]*row 0: \d+ tokens[^$]*row 4"):
        labels.label_rows(slm, "toolcall", ROWS["toolcall"], 50)


def test_nothing_is_trained_when_the_decision_says_0_and_a_missing_one_names_the_notebook(settings, capsys):
    with pytest.raises(FileNotFoundError, match="03_decision"):
        training.fine_tune(settings, "toolcall")
    write_json(settings.evaluation / "toolcall_decision.json", {"FINE_TUNE": 0})
    assert training.fine_tune(settings, "toolcall") is None
    assert "nothing to train" in capsys.readouterr().out
    assert not settings.runs.exists()


def test_an_interrupted_checkpoint_is_not_resumed_from(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()
    assert training._find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


def test_a_short_training_on_this_machine_lowers_the_loss_and_leaves_an_adapter_that_loads(settings):
    rows = ROWS["toolcall"][:2]
    for split in ("train", "val"):
        write_rows(settings.dataset / "toolcall" / f"{split}.jsonl", rows)
    write_json(settings.evaluation / "toolcall_decision.json", {"FINE_TUNE": 1})
    card = training.fine_tune(
        settings, "toolcall", recipe=training.Recipe(rank=8, epochs=3, batch_size=2, learning_rate=1e-3)
    )
    target = settings.swap_home / "04_ft" / "adapter_toolcall"
    assert card == json.loads((target / "run_card.json").read_text())
    assert card["steps"] == 3
    assert card["losses"][-1]["loss"] < card["losses"][0]["loss"]
    names = {
        s["name"]
        for line in outbox.read_outbox(settings.runs / card["run_id"] / "trace.jsonl")
        for s in outbox.list_spans(line)
    }
    assert {"train toolcall", "step 1 loss", "step 3 loss"} <= names
    adapted, base = LocalSLM(settings.slm_model_path, target), LocalSLM(settings.slm_model_path)
    assert adapted.identity()["adapter_sha256"]
    chat = [{"role": "user", "content": rows[0].prompt}]
    outputs = [model.generate_batch([model.render(chat)], 12)[0].output for model in (adapted, base)]
    assert outputs[0] != outputs[1]
