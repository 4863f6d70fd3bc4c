"""Chat templates without a place for a system message: all models are asked alike, without one."""

import httpx
import pytest
from chat_templates import (
    DROPS_SYSTEM,
    GEMMA_2,
    LLAMA_32,
    MISTRAL_OLD,
    QWEN_3,
    copy_as_gemma,
    copy_with_template,
)
from hypothesis import given
from hypothesis import strategies as st
from runs import right, run_azure
from servers import completion, refusal, serving

from conftest import make_rows
from swaplib.evaluation import evaluate, foresight
from swaplib.models import templates
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import LoadedModel, load
from swaplib.prompts import SYSTEM_PROMPTS, build_messages
from swaplib.serving.server_process import running_server
from swaplib.training import chats, finetune, labels
from swaplib.training.sft import Recipe

SYSTEM = SYSTEM_PROMPTS["toolcall"]
FOLDED = {"system": "folded"}
BEGIN = "<start_of_turn>"  # what the packaged checkpoint's first token of texts is called here


@pytest.fixture
def gemma(checkpoint, tmp_path) -> Checkpoint:
    return Checkpoint(copy_as_gemma(checkpoint, tmp_path / "gemma"))


@pytest.fixture
def gemma_home(toolcall_home, gemma):
    """Six rows in each split, and a checkpoint without a system role."""
    return toolcall_home.model_copy(update={"slm_model_path": gemma.path})


@pytest.mark.parametrize(
    ("template", "is_folded"),
    [
        (GEMMA_2, True),
        (MISTRAL_OLD, True),
        (DROPS_SYSTEM, True),
        (QWEN_3, False),
        (LLAMA_32, False),
        ("{{ raise_exception('never') }}", False),  # this is no matter of the system message
        ("", False),
    ],
    ids=["gemma 2", "mistral", "drops", "qwen 3", "llama 3.2", "refuses all", "none"],
)
def test_the_template_alone_says_whether_it_has_a_place_for_a_system_message(
    checkpoint, tmp_path, template, is_folded
):
    copy = Checkpoint(copy_with_template(checkpoint, tmp_path / "copy", template))
    assert copy.folds_system is is_folded
    assert copy.identity().get("template") == (FOLDED if is_folded else None)


def test_a_template_in_the_tokenizers_config_is_read_as_well(tmp_path):
    file = tmp_path / "tokenizer_config.json"
    for value, found in (
        ('"x"', "x"),
        ('[{"name": "tool_use", "template": "y"}]', ""),
        ("null", ""),
    ):
        file.write_text(f'{{"chat_template": {value}}}')
        assert templates.read_template(tmp_path) == found
    file.write_text(
        '{"chat_template": [{"name": "default", "template": "x"}, '
        '{"name": "rag", "template": "y"}]}'
    )
    assert templates.read_template(tmp_path) == "x"
    assert templates.read_template(tmp_path / "nowhere") == ""


def test_the_system_text_goes_before_the_first_request(gemma):
    more = [{"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]
    chat = [*build_messages("toolcall", "Request 1?"), *more]
    assert gemma.render(chat) == (
        f"{BEGIN}<start_of_turn>user\n{SYSTEM}\n\nRequest 1?<end_of_turn>\n<start_of_turn>model\n"
        "A<end_of_turn>\n"
        "<start_of_turn>user\nB<end_of_turn>\n<start_of_turn>model\n"
    )
    assert gemma.render(chat) == gemma.render(templates.fold_system(chat))


roles = st.sampled_from(["system", "user", "assistant"])


@given(
    st.lists(
        st.fixed_dictionaries({"role": roles, "content": st.text("ab", max_size=5)}), max_size=6
    )
)
def test_folding_loses_no_text_and_leaves_no_system_message_in_front(messages):
    folded = templates.fold_system(messages)
    said, wanted = ("".join(m["content"] for m in chat) for chat in (folded, messages))
    assert said.replace("\n", "") == wanted
    assert [m["role"] for m in folded][:1] != ["system"]
    assert templates.fold_system(folded) == folded


def test_01_counts_and_shows_the_prompts_of_a_model_without_a_system_role(gemma_home, gemma):
    rows = {"toolcall": {split: make_rows(2) for split in ("train", "val", "test")}}
    assert all(record["prompt_max"] > 20 for record in foresight.count_tokens(rows, gemma.path))
    hosted, slm = foresight.preview_prompts(gemma_home, rows)
    assert (hosted["part"], hosted["text"]) == ("user message", f"{SYSTEM}\n\nRequest 0?")
    assert hosted["text"] in slm["text"]


def right_when_folded(exchange):
    return (
        right(exchange)
        if SYSTEM not in exchange.json()["messages"][-1]["content"]
        else completion("x")
    )


def test_the_hosted_llm_is_asked_as_the_slm_is_and_the_run_says_so(gemma_home, toolcall_home):
    with serving(right_when_folded) as (root, exchanges):
        folded = run_azure(gemma_home, root)
        asked = [exchange.json()["messages"] for exchange in exchanges]
        plain = run_azure(toolcall_home, root)
    assert [{"role": "user", "content": f"{SYSTEM}\n\nRequest 3?"}] in asked
    assert {len(messages) for messages in asked} == {1}
    assert folded.metrics["run"]["template"] == FOLDED
    assert "template" not in plain.metrics["run"]
    # Not to be compared.
    assert folded.metrics["run"]["messages_sha256"] != plain.metrics["run"]["messages_sha256"]


def test_nothing_is_paid_for_a_checkpoint_that_can_write_no_chat(
    toolcall_home, checkpoint, tmp_path
):
    broken = copy_with_template(
        checkpoint, tmp_path / "broken", "{{ raise_exception('not for chats') }}"
    )
    with serving(right) as (root, exchanges):
        update = {"azure_endpoint": f"{root}/openai/deployments/gpt", "slm_model_path": broken}
        with pytest.raises(ValueError, match=r"broken cannot write a request \(not for chats\)"):
            evaluate.run_models(toolcall_home.model_copy(update=update), "toolcall", "azure,slm")
    assert exchanges == []


def refuse_system(exchange):
    """As vLLM answers for a Gemma 2; the model is listed."""
    if exchange.method == "GET":
        return 200, {}, b'{"object": "list", "data": [{"id": "slm"}]}'
    is_refused = any(message["role"] == "system" for message in exchange.json()["messages"])
    return refusal(400) if is_refused else completion("x")


@pytest.mark.parametrize("models", ["azure,slm", "azure"])
def test_nothing_is_paid_while_a_served_slm_refuses_system_messages(toolcall_home, gemma, models):
    with serving(right_when_folded) as (root, exchanges), serving(refuse_system) as (served, _):
        update = {
            "azure_endpoint": f"{root}/openai/deployments/gpt",
            "slm_base_url": f"{served}/v1",
        }
        home = toolcall_home.model_copy(update=update)
        with pytest.raises(ValueError, match=r"refuses a system message.*let SLM_MODEL_PATH name"):
            evaluate.run_models(home, "toolcall", models)
        assert exchanges == []
        known = home.model_copy(update={"slm_model_path": gemma.path})  # as the error says
        for run in evaluate.run_models(known, "toolcall", models):
            assert run.metrics["complete"]


def test_a_turn_is_trained_to_end_as_the_template_ends_it(gemma):
    of_rows = chats.gather_rows("toolcall", {"train": make_rows(2), "val": make_rows(1)}).chats
    made = labels.label_chats(gemma, of_rows, 2048)
    proof = labels.prove_labels(gemma, of_rows["train"], made["train"])
    assert proof[1]["trained"] == '<tool_call name="tool_1">{"x":1}</tool_call><end_of_turn>'
    assert proof[1]["not_trained"].startswith(
        f"{BEGIN}<start_of_turn>user\n{SYSTEM}\n\nRequest 1?<end_of_turn>"
    )


@pytest.mark.parametrize("template", [MISTRAL_OLD, DROPS_SYSTEM], ids=["mistral", "drops"])
def test_other_templates_without_a_system_role_can_be_trained_on(checkpoint, tmp_path, template):
    slm = Checkpoint(copy_with_template(checkpoint, tmp_path / "copy", template))
    of_rows = chats.gather_rows("toolcall", {"train": make_rows(1), "val": make_rows(1)}).chats
    [proof] = labels.prove_labels(
        slm, of_rows["train"], labels.label_chats(slm, of_rows, 2048)["train"]
    )
    assert proof["trained"] == '<tool_call name="tool_0">{"x":0}</tool_call><|im_end|>'
    assert SYSTEM in proof["not_trained"]


def test_the_run_card_says_how_an_adapter_was_asked(gemma, checkpoint):
    chosen = {
        "toolcall": chats.gather_rows("toolcall", {"train": make_rows(1), "val": make_rows(1)})
    }
    (folded, said), (plain, other) = (
        finetune._describe(slm, chosen, Recipe(), None) for slm in (gemma, checkpoint)
    )
    assert said["template"] == FOLDED
    assert "template" not in other
    assert folded != plain


def test_markers_of_the_template_are_no_text_whatever_they_look_like(checkpoint, tmp_path):
    # as EXAONE's
    template = "{% for m in messages %}[|{{ m.role }}|]{{ m.content }}[|endofturn|]\n{% endfor %}"
    renamed = {
        "<repo_name>": "[|user|]",
        "<reponame>": "[|endofturn|]",
        "<file_sep>": "</tool_call>",
    }
    slm = Checkpoint(copy_with_template(checkpoint, tmp_path / "copy", template, renamed))
    assert slm.turn_end == "[|endofturn|]"
    said = LoadedModel(slm, Stub()).detokenise(
        slm.encode('<tool_call name="f">{}</tool_call>[|endofturn|][|user|]')
    )
    assert said == '<tool_call name="f">{}</tool_call>'


class Stub:
    """As much of a network as knows how its answers end."""

    class generation_config:  # noqa: N801 - transformers' name
        eos_token_id = 2


def test_a_checkpoint_without_a_template_can_be_described(checkpoint, tmp_path):
    slm = Checkpoint(
        copy_with_template(checkpoint, tmp_path / "copy", "{{ raise_exception('no') }}")
    )
    assert slm.turn_end == "<|im_end|>"
    assert slm.control_ids >= {0, 1, 2}


@pytest.mark.slow
def test_an_answer_ends_with_its_turn_whatever_the_config_forgets(gemma):
    model = load(gemma)
    assert model.stop_ids == {0, 2}
    ids = model.checkpoint.encode("<start_of_turn>model\nyes</tool_call><end_of_turn><eos>")
    assert model.detokenise(ids) == "model\nyes</tool_call>"


@pytest.mark.slow
def test_a_served_model_without_a_system_role_answers_system_messages(gemma):
    with running_server(LocalSLM(gemma), "slm") as root:
        body = {"messages": build_messages("toolcall", "Request 1?"), "max_tokens": 2}
        answer = httpx.post(f"{root}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 200
    assert answer.json()["usage"]["prompt_tokens"] == gemma.count_tokens(
        gemma.render(body["messages"])
    )
