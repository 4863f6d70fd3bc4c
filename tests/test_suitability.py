"""What `swap doctor` says of a checkpoint: real tokenizers, templates and weights."""

import json

import pytest
import torch
from chat_templates import GEMMA_2, LLAMA_32, MISTRAL_OLD, QWEN_3, copy_with_template
from safetensors.torch import save_file
from servers import serving
from test_system_role import gemma, refuse_system  # noqa: F401 - gemma is a fixture

from swaplib.doctor import check_checkpoint_loads
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel
from swaplib.training.suitability import check_tags, describe_checkpoint

OWN, FOLDED = (
    "its template takes a system message",
    "its template has no place for a system message, so all models",
)
# as DeepSeek-R1's distilled models do, whatever the options say
THINKS_ALWAYS = QWEN_3.partition("{%- if enable_thinking")[0] + "{{- '<think>\n' }}{%- endif %}"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (QWEN_3, [OWN, "its template is filled in with enable_thinking false"]),
        (LLAMA_32, [OWN, 'filled in with date_string "26 Jul 2024", strftime_now "2024-07-26"']),
        (GEMMA_2, [FOLDED]),
        (MISTRAL_OLD, [FOLDED]),
        (THINKS_ALWAYS, [OWN, "begins every answer with <think>"]),
    ],
    ids=["qwen 3", "llama 3.2", "gemma 2", "mistral", "thinks always"],
)
def test_the_template_is_told_in_words(checkpoint, tmp_path, template, words):
    *said, training = describe_checkpoint(
        Checkpoint(copy_with_template(checkpoint, tmp_path / "copy", template))
    )
    assert [word in text for word, text in zip(words, said, strict=True)] == [True] * len(words), (
        said
    )
    assert training == "04 can train it (llama)"


def test_a_model_without_the_layers_that_are_trained_is_told(checkpoint, tmp_path):
    """The names of Phi-3's weights, where projections share a matrix."""
    folder = copy_with_template(checkpoint, tmp_path / "phi", QWEN_3)
    names = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    (folder / "model.safetensors").unlink()
    weights = {f"model.layers.0.{name}.weight": torch.zeros(2, 2) for name in names}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "phi3"}))
    said = describe_checkpoint(Checkpoint(folder))[-1]
    assert said == "04 cannot train it (phi3 has no q_proj, k_proj, v_proj, gate_proj, up_proj)"


@pytest.mark.slow
def test_a_tag_that_no_training_has_touched_is_told(slm, tmp_path):
    """The packaged model's Jupyter tokens are untrained; one is named like a call's tag here."""
    check_tags(slm.model)
    renamed = {"<jupyter_output>": "</tool_call>", "<repo_name>": '<tool_call name=\\"'}
    copy = Checkpoint(copy_with_template(slm.checkpoint, tmp_path / "copy", QWEN_3, renamed))
    assert copy.tokenizer.decode(copy.encode("</tool_call>")) == "</tool_call>"
    with pytest.raises(
        ValueError, match=r"has a token for </tool_call> that no training has touched"
    ):
        check_tags(LoadedModel(copy, slm.model.network))


@pytest.mark.slow
def test_the_doctor_says_how_a_checkpoint_is_asked(settings, gemma):  # noqa: F811
    said = check_checkpoint_loads(settings.model_copy(update={"slm_model_path": gemma.path}))
    assert "loads in 4-bit and answers" in said
    assert said.endswith(
        "all models are asked with that text before the request; 04 can train it (llama)"
    )


def test_the_doctor_names_a_served_slm_that_refuses_system_messages(settings):
    with (
        serving(refuse_system) as (root, _),
        pytest.raises(ValueError, match="refuses a system message"),
    ):
        check_checkpoint_loads(settings.model_copy(update={"slm_base_url": f"{root}/v1"}))
