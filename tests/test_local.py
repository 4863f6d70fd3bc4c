import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from swaplib import decoding
from swaplib.checkpoints import count_parameters
from swaplib.local import LocalSLM, measure_logprobs
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT

ROWS = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "test.jsonl", "toolcall")[:4]
CHATS = [build_messages("toolcall", row.prompt) for row in ROWS]


def test_special_tokens_end_turns_and_padding_is_not_the_end(slm):
    tokenizer = slm.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert slm.model.generation_config.eos_token_id == 2
    assert not tokenizer.clean_up_tokenization_spaces


def test_the_rendered_prompt_is_the_chat_template_up_to_the_answer(slm):
    assert slm.render([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_weights_are_four_bit_values_that_were_dequantised_once(slm):
    weight = slm.model.model.layers[0].mlp.down_proj.weight
    assert weight.dtype.is_floating_point
    assert len(weight[0, :64].unique()) <= 16  # one block of nf4 has 16 levels


def test_an_adapter_is_added_to_dequantised_weights_and_applied_beside_packed_ones(slm):
    adapted = LocalSLM(slm.path, ROOT / "slm_swap" / "stand_in")
    merged, beside = adapted.model, adapted._load(is_dequantised=False)
    assert not [name for name, _ in merged.named_modules() if "lora" in name]
    assert [name for name, _ in beside.named_modules() if "lora" in name]
    ids = torch.tensor([adapted._encode(adapted.render(CHATS[0]))], device=adapted.device)
    with torch.inference_mode():
        found = [model(input_ids=ids).logits[0, -1].float() for model in (merged, beside, slm.model)]
    moved = (found[1] - found[2]).abs().max()  # by the adapter
    # packed weights are multiplied in bfloat16 on a GPU and on a CPU that has instructions for it
    assert (found[0] - found[1]).abs().max() < 0.1 * moved


@pytest.mark.parametrize("target", [["lm_head"], r"lm_head|.*\.0\.mlp\.up_proj"], ids=["list", "pattern"])
def test_an_adapter_of_weights_that_are_tied_stays_beside_them(slm, tmp_path, target):
    config = LoraConfig(r=2, target_modules=target, init_lora_weights=False)
    get_peft_model(LocalSLM(slm.path)._load(), config).save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"] == target
    adapted = LocalSLM(slm.path, tmp_path / "adapter")
    assert [name for name, _ in adapted.model.named_modules() if "lm_head.lora" in name]
    with pytest.raises(ValueError, match="cannot be merged"):
        adapted.load_merged()


@pytest.mark.parametrize(
    ("name", "is_merged"),
    [
        ("model.layers.0.mlp.up_proj.lora_A.weight", True),
        ("transformer.h.11.attn.c_attn.lora_B.weight", True),
        ("lm_head.lora_A.weight", False),
        ("model.embed_tokens.lora_embedding_A", False),
        ("embed_out.lora_A.weight", False),
        ("lm_head.weight", False),
        ("model.layers.0.input_layernorm.weight", False),
    ],
)
def test_identity_says_whether_the_adapter_is_merged_by_what_it_has_weights_for(slm, tmp_path, name, is_merged):
    folder = shutil.copytree(ROOT / "slm_swap" / "stand_in", tmp_path / "adapter")
    weights = {f"base_model.model.{n}": torch.zeros(2, 2) for n in ("model.layers.0.mlp.up_proj.lora_B.weight", name)}
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    assert LocalSLM(slm.path, folder).identity()["is_merged"] is is_merged
    assert slm.identity()["is_merged"] is None


def test_parameters_are_counted_without_loading_them(slm):
    assert count_parameters(slm.path) == slm.model.num_parameters()


@pytest.mark.parametrize(("room", "is_dequantised"), [(0.9, False), (1.1, True)])
def test_identity_says_whether_a_gpu_has_room_for_dequantised_weights(slm, monkeypatch, room, is_dequantised):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, room * 4 * slm.model.num_parameters()))
    asked = {"slm": LocalSLM(slm.path), "slm_ft": LocalSLM(slm.path, ROOT / "slm_swap" / "stand_in")}
    for model in asked.values():
        model.__dict__["device"] = "cuda"
    found = {name: model.identity() for name, model in asked.items()}
    assert [identity["is_dequantised"] for identity in found.values()] == [is_dequantised, is_dequantised]
    assert [identity["is_merged"] for identity in found.values()] == [None, is_dequantised]


def test_a_model_is_loaded_as_its_identity_says(slm):
    packed = LocalSLM(slm.path, ROOT / "slm_swap" / "stand_in")
    packed.__dict__["is_dequantised"] = False
    assert packed.identity()["is_dequantised"] is packed.identity()["is_merged"] is False
    assert [name for name, _ in packed.model.named_modules() if "lora" in name]
    assert packed.model.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.dtype == torch.uint8


def test_an_adapter_of_another_kind_is_refused(slm, tmp_path):
    folder = shutil.copytree(ROOT / "slm_swap" / "stand_in", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ValueError, match="of the kind PREFIX_TUNING; expected LORA"):
        LocalSLM(slm.path, folder).check()


def test_an_answer_that_ends_its_turn_is_ok_and_one_cut_off_is_truncated(slm):
    chat = [{"role": "user", "content": "Reply with one word: yes."}]
    generations = {limit: dict(slm.generate([chat], limit))[0] for limit in (1, 64)}
    assert generations[1].status == "truncated"
    assert generations[1].finish_reason == "length"
    assert generations[1].completion_tokens == 1
    whole = generations[64]
    assert whole.status == "ok"
    assert whole.finish_reason == "stop"
    assert "<|im_end|>" not in whole.output
    assert whole.output.startswith(generations[1].output)
    assert whole.prompt_tokens == len(slm.tokenizer(slm.render(chat))["input_ids"])


def test_a_generation_tells_how_sure_the_model_was(slm):
    text = slm.render(CHATS[0])
    [generation] = slm.generate_batch([text], 8)
    answer = next(decoding.decode(slm.model, [slm._encode(text)], 8, 1))
    with torch.inference_mode():
        ids = torch.tensor([slm._encode(text) + answer.ids], device=slm.device)
        logits = slm.model(input_ids=ids, logits_to_keep=len(answer.ids) + 1).logits[0, :-1].float()
    by_hand = logits.log_softmax(-1).gather(-1, ids[0, -len(answer.ids) :, None])[:, 0].cpu()
    assert generation.mean_logprob == pytest.approx(by_hand.mean().item(), abs=1e-3 if slm.device == "cpu" else 0.1)
    assert generation.min_logprob == pytest.approx(by_hand.min().item(), abs=1e-3 if slm.device == "cpu" else 0.1)
    assert generation.min_logprob <= generation.mean_logprob <= 0


def test_arithmetic_that_gave_no_number_says_nothing_of_how_sure_it_was():
    assert measure_logprobs([-0.25, -0.75]) == (-0.5, -0.75)
    assert measure_logprobs([-0.25, float("nan")]) == (None, None)


def test_tags_that_a_tokenizer_marks_special_stay_in_the_output_and_ends_do_not(slm_of_special_tags):
    slm, row = slm_of_special_tags, ROWS[0]
    ids = slm.tokenizer(row.completion + slm.tokenizer.eos_token)["input_ids"]
    said = {slm.tokenizer.decode([i]) for i in ids if i in slm.tokenizer.all_special_ids}
    assert said == {'<tool_call name="', "</tool_call>", "<|im_end|>"}
    generation = slm._read(decoding.Answer(0, ids, [-0.5] * len(ids), 1.0), 9)
    assert generation.output == row.completion
    assert (generation.status, generation.completion_tokens) == ("ok", len(ids))


def test_control_tokens_are_no_text_wherever_they_stand(slm):
    said = "<|im_start|>a<repo_name>b<|endoftext|>c<|im_end|>"
    assert slm.decode(slm.tokenizer(said)["input_ids"]) == "a<repo_name>bc"


def test_answers_keep_their_rows_whatever_the_order_of_lengths(slm):
    batched = dict(slm.generate(CHATS, 6))
    alone = {i: slm.generate_batch([slm.render(chat)], 6)[0] for i, chat in enumerate(CHATS)}
    assert set(batched) == set(range(len(CHATS)))
    assert [batched[i].prompt_tokens for i in batched] == [alone[i].prompt_tokens for i in batched]
    equal = sum(batched[i].output == alone[i].output for i in batched)
    assert equal >= len(CHATS) - 1  # rounding may differ between batch compositions


def test_the_same_batch_gives_the_same_outputs(slm):
    first, again = (dict(slm.generate(CHATS[:2], 6)) for _ in range(2))
    assert [g.output for g in first.values()] == [g.output for g in again.values()]


def test_a_checkpoints_own_sampling_settings_are_dropped(slm):
    config = slm.model.generation_config
    assert config.do_sample is False
    assert not {"temperature", "top_p", "top_k", "repetition_penalty"} & set(config.to_diff_dict())


def test_a_prompt_that_does_not_fit_says_by_how_much(slm):
    with pytest.raises(ValueError, match=r"tokens; with max_new_tokens=8190 .* context of 8192"):
        slm.generate_batch(["Hello there, friend"], 8190)


def test_a_prompt_without_room_for_an_answer_is_truncated_and_does_not_stop_the_others(slm):
    chats = [[{"role": "user", "content": "word " * 8200}], [{"role": "user", "content": "Hi"}]]
    answers = dict(slm.generate(chats, 2))
    assert (answers[0].status, answers[0].finish_reason) == ("truncated", "context_length_exceeded")
    assert answers[0].prompt_tokens > 8192
    assert answers[0].mean_logprob is None
    assert answers[1].completion_tokens == 2


def test_identity_follows_the_weights_and_not_the_place(slm, tmp_path):
    copy = tmp_path / slm.path.name
    shutil.copytree(slm.path, copy)
    assert LocalSLM(copy).identity() == slm.identity()
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert LocalSLM(copy).identity() != slm.identity()


def test_identity_follows_the_chat_template(slm, tmp_path):
    copy = tmp_path / slm.path.name
    shutil.copytree(slm.path, copy)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert LocalSLM(copy).identity() != slm.identity()


def test_a_missing_checkpoint_or_adapter_says_what_makes_it(slm, tmp_path):
    with pytest.raises(FileNotFoundError, match="swap download"):
        LocalSLM(tmp_path / "nowhere").check()
    with pytest.raises(FileNotFoundError, match="04_finetune"):
        LocalSLM(slm.path, adapter=tmp_path / "nowhere").check()
