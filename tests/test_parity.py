import json
import shutil
import subprocess
import sys

import pytest
from servers import as_json, refusal, serving

from swaplib.demo.stand_in import STAND_IN
from swaplib.evaluation import parity
from swaplib.files import write_json
from swaplib.models.checkpoints import check_checkpoint, hash_checkpoint
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load
from swaplib.rows import read_rows, write_rows
from swaplib.settings import ROOT
from swaplib.tracing import outbox

pytestmark = pytest.mark.slow

ROWS = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "test.jsonl", "toolcall")[:3]


@pytest.fixture
def adapted(settings):
    """Settings whose home holds three test rows and a real adapter."""
    write_rows(settings.dataset / "toolcall" / "test.jsonl", ROWS)
    shutil.copytree(STAND_IN.checkpoint.adapter, settings.adapter_of("toolcall"))
    card = json.loads((STAND_IN.checkpoint.adapter / "run_card.json").read_text())
    # the stand-in was trained where the packaged checkpoint was converted by other versions
    card |= {
        "checkpoint": hash_checkpoint(settings.slm_model_path),
        "run": {"trace": {"outbox": "/home/me"}},
    }
    write_json(settings.adapter_of("toolcall") / "run_card.json", card)
    return settings


def test_equal_outputs_are_counted_and_the_others_kept():
    record = parity.compare_outputs("a against b", ["x", "y", "z"], ["x", "Y", "z"])
    assert (record["rows"], record["equal"], record["share"]) == (3, 2, pytest.approx(2 / 3))
    assert record["differing"] == [{"row": 1, "first": "y", "second": "Y"}]


def test_the_same_weights_run_in_other_ways_are_compared_and_the_record_is_read_again(
    adapted, capsys
):
    content = parity.measure_parity(
        adapted, "toolcall", "slm_ft", n_rows=2, batch_size=2, max_new_tokens=24
    )
    batches, merged, served = content["comparisons"]
    assert batches["compared"] == "batch 2 against batch 1"
    assert merged["compared"] == "adapter against its exported merge"
    assert all(record["rows"] == 2 for record in content["comparisons"])
    assert served["share"] == 1.0  # the same weights, the same arithmetic, the same batch
    assert merged["equal"] >= 1  # bfloat16 rounds the merged weights
    trace = outbox.read_outbox(adapted.runs / content["run"]["run_id"] / "trace.jsonl")
    assert {"parity", "parity toolcall"} == {
        span["name"] for line in trace for span in outbox.list_spans(line)
    }
    again = parity.measure_parity(
        adapted, "toolcall", "slm_ft", n_rows=2, batch_size=2, max_new_tokens=24
    )
    assert again == content
    assert "measured before" in capsys.readouterr().out


def test_rows_without_an_answer_are_no_outputs_to_compare(adapted):
    with serving(
        lambda e: as_json({"data": [{"id": "slm"}]}) if e.method == "GET" else refusal(400)
    ) as (root, _):
        elsewhere = {"slm_base_url": f"{root}/v1"}
        with pytest.raises(
            RuntimeError, match=r"parity was not measured: 3 row\(s\) got no answer"
        ):
            parity.measure_parity(adapted.model_copy(update=elsewhere), "toolcall", "slm")
    assert not (adapted.evaluation / "toolcall_parity.json").exists()
    assert parity.measure_parity(adapted, "toolcall", "slm_ft", n_rows=0) == {"comparisons": []}


def test_parity_is_for_local_models(toolcall_home):
    with pytest.raises(ValueError, match="expected a local model"):
        parity.measure_parity(toolcall_home, "toolcall", "azure")
    with pytest.raises(ValueError, match="expected a local model"):
        # Examples make no other weights.
        parity.measure_parity(toolcall_home, "toolcall", "slm-shots4")
    with pytest.raises(FileNotFoundError, match="04_finetune"):
        parity.measure_parity(toolcall_home, "toolcall", "slm_ft")


def test_an_adapter_is_exported_as_it_is_or_merged_into_one_checkpoint(
    adapted, env_of_tests, tmp_path
):
    env = env_of_tests | {"SWAP_HOME": str(adapted.swap_home)}

    def export(*arguments) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "swaplib.cli", "export", *map(str, arguments)]
        return subprocess.run(command, env=env, capture_output=True, text=True)

    assert export("toolcall", tmp_path / "adapter").returncode == 0
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert "/home/me" not in (tmp_path / "adapter" / "run_card.json").read_text()
    done = export("toolcall", tmp_path / "merged", "--merged")
    assert done.returncode == 0, done.stderr
    check_checkpoint(tmp_path / "merged")
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    merged = load(Checkpoint(tmp_path / "merged", None, "bfloat16"))
    assert str(next(merged.network.parameters()).dtype) == "torch.bfloat16"
    assert merged.checkpoint.tokenizer.eos_token == "<|im_end|>"
    refused = export("toolcall", tmp_path / "merged", "--merged")
    assert refused.returncode == 1
    assert "exists; name another folder" in refused.stderr
    assert "no adapter at" in export("structured", tmp_path / "none").stderr
    assert not (tmp_path / "none").exists()
