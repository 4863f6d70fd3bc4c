import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from runs import make_metrics

from swaplib.evaluation import comparison
from swaplib.files import hash_file, write_json
from swaplib.models import adapters
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load
from swaplib.prompts import build_messages
from swaplib.provenance import describe_device
from swaplib.rows import read_rows, write_rows
from swaplib.settings import ROOT, Settings, load_settings
from swaplib.tracing import outbox
from swaplib.training import finetune, sft
from swaplib.training.chats import gather_rows

pytestmark = pytest.mark.slow

NO_GPU = describe_device().startswith("CPU")
ROWS = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "train.jsonl", "toolcall")[:5]


def write_decision(settings: Settings, bit: int) -> None:
    """A decision, and the two runs that it was made on, as far as training reads them."""
    rows_file = settings.dataset / "toolcall" / "test.jsonl"
    write_rows(rows_file, ROWS)
    for model in ("azure", "slm"):
        identity = Checkpoint(settings.slm_model_path).identity() if model == "slm" else {}
        run = dict.fromkeys(comparison.MUST_AGREE) | {
            "run_id": model,
            "model": model,
            "split": "test",
            "identity": identity,
        }
        run |= {"dataset_sha256": hash_file(rows_file)}
        write_json(
            settings.evaluation / f"toolcall_{model}_test.json",
            make_metrics("toolcall", run | {"track": "toolcall"}),
        )
    compared = {"azure": "azure", "slm": "slm"}
    content = {"FINE_TUNE": bit, "model": "slm", "run": {"compared": compared}}
    write_json(settings.evaluation / "toolcall_decision.json", content)


def test_nothing_is_trained_when_the_decision_says_0_and_a_missing_one_names_the_notebook(
    settings, capsys
):
    with pytest.raises(FileNotFoundError, match="03_decision"):
        finetune.fine_tune(settings, "toolcall")
    write_decision(settings, 0)
    assert finetune.fine_tune(settings, "toolcall") is None
    assert finetune.preview_labels(settings, finetune.choose_rows(settings, "toolcall")) == []
    assert "nothing to train" in capsys.readouterr().out
    assert not settings.runs.exists()


def test_a_decision_about_another_model_trains_nothing(settings):
    write_decision(settings, 1)
    path = settings.evaluation / "toolcall_slm_test.json"
    write_json(
        path,
        json.loads(path.read_text().replace('"checkpoint_sha256": "', '"checkpoint_sha256": "x')),
    )
    with pytest.raises(
        ValueError, match=r"about another SLM than .* Run 02_eval and 03_decision with it"
    ):
        finetune.fine_tune(settings, "toolcall")


def test_an_interrupted_checkpoint_is_not_resumed_from(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (tmp_path / "checkpoint-12").mkdir()
    (tmp_path / "checkpoint-14").mkdir()
    (tmp_path / "checkpoint-14" / "trainer_state.json").write_text('{"torn')
    assert sft._find_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


RECIPE = sft.Recipe(rank=8, epochs=4, batch_size=1, learning_rate=1e-3)
SPLITS = {split: ROWS[:2] for split in ("train", "val")}


def write_home(settings: Settings) -> Settings:
    for split, rows in SPLITS.items():
        write_rows(settings.dataset / "toolcall" / f"{split}.jsonl", rows)
    write_decision(settings, 1)
    return settings


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A home with an adapter after eight steps, its run card, and the model as training left it."""
    home = tmp_path_factory.mktemp("trained")
    settings = write_home(
        load_settings().model_copy(update={"swap_home": home, "swap_row_limit": None})
    )
    models = []
    with pytest.MonkeyPatch.context() as patch:
        save = finetune.save_adapter
        patch.setattr(
            finetune,
            "save_adapter",
            lambda model, *rest: (models.append(model), save(model, *rest)),
        )
        card = finetune.fine_tune(settings, "toolcall", recipe=RECIPE)
    return settings, card, models[0]


def test_a_short_training_on_this_machine_lowers_the_loss_on_the_trained_rows(trained):
    settings, card, _ = trained
    assert card == json.loads((settings.adapter_of("toolcall") / "run_card.json").read_text())
    assert (card["steps"], card["rows_trained"], card["resumed_from"]) == (8, 8, None)
    losses = [point["loss"] for point in card["losses"]]
    assert max(losses[-2:]) < min(losses[:2])
    assert card["validation"][-1]["loss"] < card["validation"][0]["loss"]
    assert "epochs 4 in place of 1" in card["departures"]
    trace = outbox.read_outbox(settings.runs / card["run"]["run_id"] / "trace.jsonl")
    names = {span["name"] for line in trace for span in outbox.list_spans(line)}
    assert {"train toolcall", "step 1 loss", "step 8 loss", "step 8 validation"} <= names


def test_the_adapter_reloads_with_the_outputs_of_the_model_in_memory(trained):
    import torch

    settings, _, model = trained
    # float32 weights, as training had them on a machine without a GPU
    precision = "float32" if NO_GPU else "4bit"
    reloaded = load(Checkpoint(settings.slm_model_path, settings.adapter_of("toolcall"), precision))
    checkpoint = reloaded.checkpoint
    texts = [checkpoint.render(build_messages("toolcall", row.prompt)) for row in ROWS[:2]]
    expected = {i: g.output for i, g in reloaded.generate(texts, 16, 2)}
    inputs = checkpoint.tokenizer(
        texts, return_tensors="pt", padding=True, add_special_tokens=False
    ).to(model.device)
    model.eval()
    with torch.inference_mode():
        tokens = model.generate(
            **inputs, max_new_tokens=16, generation_config=reloaded.network.generation_config
        )
    outputs = checkpoint.tokenizer.batch_decode(
        tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
    )
    assert dict(enumerate(outputs)) == expected
    base = load(Checkpoint(settings.slm_model_path, None, precision))
    assert {i: g.output for i, g in base.generate(texts, 16, 2)} != expected


def test_an_adapter_fits_its_own_base_and_rows_only(trained, tmp_path):
    settings, _, _ = trained
    assert adapters.explain_adapter_mismatch(settings, "toolcall") is None
    assert "there is no adapter" in adapters.explain_adapter_mismatch(settings, "structured")
    other_base = shutil.copytree(settings.slm_model_path, tmp_path / settings.slm_model_path.name)
    (other_base / "chat_template.jinja").write_text("{{ messages[0].content }}")
    elsewhere = settings.model_copy(update={"slm_model_path": other_base})
    assert "was trained on another base" in adapters.explain_adapter_mismatch(elsewhere, "toolcall")
    with pytest.raises(ValueError, match="was trained on another base"):
        adapters.export_adapter(elsewhere, "toolcall", tmp_path / "out", is_merged=True)
    other_rows = settings.model_copy(update={"swap_home": tmp_path / "home"})
    shutil.copytree(settings.adapter_of("toolcall"), other_rows.adapter_of("toolcall"))
    write_rows(other_rows.dataset / "toolcall" / "train.jsonl", ROWS[1:3])
    assert "was trained on other rows" in adapters.explain_adapter_mismatch(other_rows, "toolcall")
    # It was trained on the first two.
    write_rows(other_rows.dataset / "toolcall" / "train.jsonl", ROWS)
    assert adapters.explain_adapter_mismatch(other_rows, "toolcall") is None
    renamed = shutil.copytree(other_base, tmp_path / "qwen2.5-7b-instruct")
    with pytest.raises(
        ValueError, match=r"belongs to smollm2-135m-instruct, not to qwen2\.5-7b-instruct"
    ):
        Checkpoint(renamed, settings.adapter_of("toolcall")).check()


def test_the_same_training_asked_again_is_read_from_its_card(trained, capsys):
    settings, card, _ = trained
    assert finetune.fine_tune(settings, "toolcall", recipe=RECIPE) == card
    assert "trained before" in capsys.readouterr().out


TRAIN = """
from swaplib.training import sft, finetune
from swaplib.settings import load_settings
recipe = sft.Recipe(rank=8, epochs=4, batch_size=1, learning_rate=1e-3)
finetune.fine_tune(load_settings(), "toolcall", recipe=recipe)
"""


def test_a_training_that_is_killed_resumes_and_ends_as_an_undisturbed_one(
    trained, settings, env_of_tests
):
    write_home(settings)
    env = env_of_tests | {"SWAP_HOME": str(settings.swap_home), "SWAP_ROW_LIMIT": ""}
    process = subprocess.Popen([sys.executable, "-c", TRAIN], env=env, stdout=subprocess.DEVNULL)
    while not list(settings.runs.glob("*/checkpoints/checkpoint-3/trainer_state.json")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    [folder] = settings.runs.glob("2*-train-*")
    assert not settings.adapter_of("toolcall").exists()
    done = subprocess.run([sys.executable, "-c", TRAIN], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    card = json.loads((settings.adapter_of("toolcall") / "run_card.json").read_text())
    assert card["run"]["run_id"] == folder.name
    assert card["resumed_from"].startswith("checkpoint-")
    undisturbed = trained[1]
    assert [card[key] for key in ("steps", "rows_trained")] == [
        undisturbed[key] for key in ("steps", "rows_trained")
    ]
    assert [point["step"] for point in card["losses"]] == list(range(1, 9))
    assert [point["loss"] for point in card["losses"]] == pytest.approx(
        [point["loss"] for point in undisturbed["losses"]], rel=0.05
    )
    assert not (folder / "checkpoints").exists()


def test_a_row_limit_takes_the_first_rows_and_a_quarter_as_many_to_validate(settings):
    write_rows(settings.dataset / "toolcall" / "train.jsonl", ROWS)
    write_rows(settings.dataset / "toolcall" / "val.jsonl", ROWS)
    chosen = finetune.choose_rows(settings, "toolcall", force=True, row_limit=4)
    assert chosen == gather_rows("toolcall", {"train": ROWS[:4], "val": ROWS[:1]}, chosen.cut)
    assert chosen.cut == "only the first 4 train rows and 1 val rows"
    assert finetune.choose_rows(settings, "toolcall", force=True).cut is None
    capped = settings.model_copy(update={"swap_row_limit": 2})
    assert (
        len(finetune.choose_rows(capped, "toolcall", force=True, row_limit=4).chats["train"]) == 2
    )
    with pytest.raises(ValueError, match="row_limit=0"):
        finetune.fine_tune(settings, "toolcall", force=True, row_limit=0)
