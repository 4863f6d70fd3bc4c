import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from swaplib.models.checkpoints import count_parameters
from swaplib.models.decoding import ATTENTION
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.models.local_model import load, measure_logprobs
from swaplib.prompts import build_messages
from swaplib.rows import read_rows
from swaplib.settings import ROOT

pytestmark = pytest.mark.slow

ROWS = read_rows(ROOT / "slm_swap" / "02_dataset" / "toolcall" / "test.jsonl", "toolcall")[:4]
CHATS = [build_messages("toolcall", row.prompt) for row in ROWS]
ADAPTER = ROOT / "slm_swap" / "stand_in"


def list_lora(model):
    return [name for name, _ in model.network.named_modules() if "lora" in name]


def test_special_tokens_end_turns_and_padding_is_not_the_end(slm):
    tokenizer = slm.checkpoint.tokenizer
    assert (tokenizer.eos_token, tokenizer.eos_token_id) == ("<|im_end|>", 2)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<|im_start|>", 1)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == ("<|endoftext|>", 0)
    assert slm.model.network.generation_config.eos_token_id == 2
    assert slm.model.stop_ids == {2}
    assert not tokenizer.clean_up_tokenization_spaces


def test_the_rendered_prompt_is_the_chat_template_up_to_the_answer(checkpoint):
    assert checkpoint.render(
        [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    ) == ("<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\n")


def test_the_weights_are_four_bit_values_that_were_dequantised_once(slm):
    weight = slm.model.network.model.layers[0].mlp.down_proj.weight
    assert weight.dtype.is_floating_point
    assert len(weight[0, :64].unique()) <= 16  # one block of nf4 has 16 levels


def test_an_adapter_is_added_to_dequantised_weights_and_applied_beside_packed_ones(slm):
    adapted = Checkpoint(slm.checkpoint.path, ADAPTER)
    merged, beside = load(adapted), load(adapted, is_dequantised=False)
    assert not list_lora(merged)
    assert list_lora(beside)
    ids = torch.tensor([adapted.encode(adapted.render(CHATS[0]))], device=adapted.device)
    with torch.inference_mode():
        found = [
            model.network(input_ids=ids).logits[0, -1].float()
            for model in (merged, beside, slm.model)
        ]
    moved = (found[1] - found[2]).abs().max()  # by the adapter
    # packed weights are multiplied in bfloat16 on a GPU and on a CPU that has instructions for it
    assert (found[0] - found[1]).abs().max() < 0.1 * moved


def test_an_adapter_is_added_or_applied_beside_the_weights_as_told(checkpoint):
    adapted = Checkpoint(checkpoint.path, ADAPTER)
    beside = load(adapted, is_merged=False)
    assert list_lora(beside)
    assert {weight.dtype for weight in beside.network.parameters()} == {
        getattr(torch, adapted.arithmetic)
    }
    with pytest.raises(ValueError, match="added to dequantised weights only"):
        load(adapted, is_dequantised=False, is_merged=True)


@pytest.mark.parametrize(
    "target", [["lm_head"], r"lm_head|.*\.0\.mlp\.up_proj"], ids=["list", "pattern"]
)
def test_an_adapter_of_weights_that_are_tied_stays_beside_them(checkpoint, tmp_path, target):
    config = LoraConfig(r=2, target_modules=target, init_lora_weights=False)
    unmerged = get_peft_model(load(checkpoint).network, config)
    unmerged.save_pretrained(tmp_path / "adapter")
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
        == target
    )
    adapted = Checkpoint(checkpoint.path, tmp_path / "adapter")
    assert not adapted.can_merge
    loaded = load(adapted)
    assert [name for name in list_lora(loaded) if "lm_head.lora" in name]
    ids = torch.tensor([adapted.encode(adapted.render(CHATS[0]))], device=adapted.device)
    with torch.inference_mode():
        found, wanted = (
            network(input_ids=ids).logits[0, -1] for network in (loaded.network, unmerged.eval())
        )
        merged = unmerged.merge_and_unload()(input_ids=ids).logits[0, -1]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    assert (
        merged - wanted
    ).abs().max() > 0.1  # what merging into tied weights would have made of it
    with pytest.raises(ValueError, match="cannot be merged"):
        load(adapted, is_dequantised=True, is_merged=True)


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
def test_identity_says_whether_the_adapter_is_merged_by_what_it_has_weights_for(
    checkpoint, tmp_path, name, is_merged
):
    folder = shutil.copytree(ADAPTER, tmp_path / "adapter")
    weights = {
        f"base_model.model.{n}": torch.zeros(2, 2)
        for n in ("model.layers.0.mlp.up_proj.lora_B.weight", name)
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
    assert Checkpoint(checkpoint.path, folder).identity()["is_merged"] is is_merged
    assert checkpoint.identity()["is_merged"] is None


def test_parameters_are_counted_without_loading_them(slm):
    assert count_parameters(slm.checkpoint.path) == slm.model.network.num_parameters()


@pytest.mark.parametrize(("room", "is_dequantised"), [(0.9, False), (1.1, True)])
def test_identity_says_whether_a_gpu_has_room_for_dequantised_weights(
    checkpoint, monkeypatch, room, is_dequantised
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda: (0, room * 4 * count_parameters(checkpoint.path))
    )
    found = [Checkpoint(checkpoint.path, adapter).identity() for adapter in (None, ADAPTER)]
    assert [identity["is_dequantised"] for identity in found] == [is_dequantised, is_dequantised]
    assert [identity["is_merged"] for identity in found] == [None, is_dequantised]
    assert {identity["arithmetic"] for identity in found} == {"bfloat16"}


def test_a_model_is_loaded_as_its_identity_says(checkpoint, monkeypatch):
    monkeypatch.setattr(Checkpoint, "is_dequantised", False)
    packed = Checkpoint(checkpoint.path, ADAPTER)
    assert packed.identity()["is_dequantised"] is packed.identity()["is_merged"] is False
    model = load(packed)
    assert list_lora(model)
    assert (
        model.network.base_model.model.model.layers[0].mlp.up_proj.base_layer.weight.dtype
        == torch.uint8
    )


def test_an_adapter_of_another_kind_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(ADAPTER, tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"peft_type": "PREFIX_TUNING"}))
    with pytest.raises(ValueError, match="of the kind PREFIX_TUNING; expected LORA"):
        Checkpoint(checkpoint.path, folder).check()


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
    assert whole.prompt_tokens == slm.checkpoint.count_tokens(slm.checkpoint.render(chat))


def test_a_generation_tells_how_sure_the_model_was(slm):
    text, ids = slm.checkpoint.render(CHATS[0]), []
    [(_, generation)] = slm.model.generate([text], 8, 1, lambda _, token: ids.append(token))
    with torch.inference_mode():
        whole = torch.tensor([slm.checkpoint.encode(text) + ids], device=slm.checkpoint.device)
        logits = (
            slm.model.network(input_ids=whole, logits_to_keep=len(ids) + 1).logits[0, :-1].float()
        )
    by_hand = logits.log_softmax(-1).gather(-1, whole[0, -len(ids) :, None])[:, 0].cpu()
    near = 1e-3 if slm.checkpoint.device == "cpu" else 0.1
    assert generation.mean_logprob == pytest.approx(by_hand.mean().item(), abs=near)
    assert generation.min_logprob == pytest.approx(by_hand.min().item(), abs=near)
    assert generation.min_logprob <= generation.mean_logprob <= 0


def test_arithmetic_that_gave_no_number_says_nothing_of_how_sure_it_was():
    assert measure_logprobs([-0.25, -0.75]) == (-0.5, -0.75)
    assert measure_logprobs([-0.25, float("nan")]) == (None, None)


def test_tags_that_a_tokenizer_marks_special_stay_in_the_output_and_ends_do_not(
    model_of_special_tags,
):
    model, row = model_of_special_tags, ROWS[0]
    tokenizer = model.checkpoint.tokenizer
    ids = tokenizer(row.completion + tokenizer.eos_token)["input_ids"]
    said = {tokenizer.decode([i]) for i in ids if i in tokenizer.all_special_ids}
    assert said == {'<tool_call name="', "</tool_call>", "<|im_end|>"}
    assert model.detokenise(ids) == row.completion


def test_control_tokens_are_no_text_wherever_they_stand(slm):
    said = "<|im_start|>a<repo_name>b<|endoftext|>c<|im_end|>"
    assert slm.model.detokenise(slm.checkpoint.encode(said)) == "a<repo_name>bc"


def test_answers_keep_their_rows_whatever_the_order_of_lengths(slm):
    batched = dict(slm.generate(CHATS, 6))
    alone = {i: dict(slm.generate([chat], 6))[0] for i, chat in enumerate(CHATS)}
    assert set(batched) == set(range(len(CHATS)))
    assert [batched[i].prompt_tokens for i in batched] == [alone[i].prompt_tokens for i in batched]
    equal = sum(batched[i].output == alone[i].output for i in batched)
    assert equal >= len(CHATS) - 1  # rounding may differ between batch compositions


def test_the_same_batch_gives_the_same_outputs(slm):
    first, again = (dict(slm.generate(CHATS[:2], 6)) for _ in range(2))
    assert [g.output for g in first.values()] == [g.output for g in again.values()]


def test_a_checkpoints_own_sampling_settings_are_dropped(slm):
    config = slm.model.network.generation_config
    assert config.do_sample is False
    assert not {"temperature", "top_p", "top_k", "repetition_penalty"} & set(config.to_diff_dict())


def test_a_prompt_without_room_for_an_answer_is_truncated_and_does_not_stop_the_others(slm):
    chats = [[{"role": "user", "content": "word " * 8200}], [{"role": "user", "content": "Hi"}]]
    answers = dict(slm.generate(chats, 2))
    assert (answers[0].status, answers[0].finish_reason) == ("truncated", "context_length_exceeded")
    assert answers[0].prompt_tokens > 8192
    assert answers[0].mean_logprob is None
    assert answers[1].completion_tokens == 2


def test_identity_follows_the_weights_and_not_the_place(checkpoint, tmp_path):
    copy = tmp_path / checkpoint.path.name
    shutil.copytree(checkpoint.path, copy)
    assert Checkpoint(copy).identity() == checkpoint.identity()
    assert LocalSLM(Checkpoint(copy), 3).identity() == checkpoint.identity()
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert Checkpoint(copy).identity() != checkpoint.identity()


def test_identity_follows_the_chat_template(checkpoint, tmp_path):
    copy = tmp_path / checkpoint.path.name
    shutil.copytree(checkpoint.path, copy)
    (copy / "chat_template.jinja").write_text("{{ messages[0].content }}")
    assert Checkpoint(copy).identity() != checkpoint.identity()


def test_a_missing_checkpoint_or_adapter_says_what_makes_it(checkpoint, tmp_path):
    with pytest.raises(FileNotFoundError, match="swap download"):
        Checkpoint(tmp_path / "nowhere").check()
    with pytest.raises(FileNotFoundError, match="04_finetune"):
        load(Checkpoint(checkpoint.path, adapter=tmp_path / "nowhere"))


@pytest.fixture(params=["ours", "library"])
def model_of_each_path(request, slm):
    """The packaged checkpoint, decoded by our own code and by transformers'."""
    assert slm.model.network.config._attn_implementation == ATTENTION
    slm.model.network.set_attn_implementation(ATTENTION if request.param == "ours" else "sdpa")
    yield slm.model
    slm.model.network.set_attn_implementation(ATTENTION)


PROMPT = [{"role": "user", "content": "Reply with one word: yes."}]


def test_a_logits_hook_forbids_a_token(model_of_each_path):
    model, told = model_of_each_path, []
    text = model.checkpoint.render(PROMPT)
    [(_, plain)] = model.generate([text], 6, 1, lambda _, token: told.append(token))
    forbidden = told[0]

    def forbid(indices, generated, logits):
        return logits.index_fill(1, torch.tensor([forbidden], device=logits.device), -torch.inf)

    [(_, generation)] = model.generate([text], 6, 1, lambda _, token: told.append(token), forbid)
    assert forbidden not in told[plain.completion_tokens :]
    assert generation.output != plain.output
    assert generation.completion_tokens == len(told) - plain.completion_tokens


def test_a_sampler_takes_the_second_best_token(model_of_each_path):
    model, told = model_of_each_path, {}
    texts = [
        model.checkpoint.render(chat) for chat in ([{"role": "user", "content": "Hi"}], PROMPT)
    ]

    def take_second(indices, generated, logits):
        return logits.topk(2).indices[:, 1]

    found = dict(
        model.generate(
            texts, 4, 2, lambda i, token: told.setdefault(i, []).append(token), sampler=take_second
        )
    )
    for i, text in enumerate(texts):
        ids = model.checkpoint.encode(text)
        with torch.inference_mode():
            asked = torch.tensor([ids + told[i]], device=model.checkpoint.device)
            logits = model.network(input_ids=asked).logits[0, len(ids) - 1 : -1].float()
        assert told[i] == logits.topk(2).indices[:, 1].tolist()
        logprobs = logits.log_softmax(-1).cpu().gather(-1, torch.tensor(told[i])[:, None])[:, 0]
        assert found[i].mean_logprob == pytest.approx(logprobs.mean().item(), abs=1e-3)


def test_rows_begun_again_for_want_of_memory_take_what_was_told_again(slm, capsys):
    """Memory runs out midway; each attempt chooses other tokens, but a stream stays as it was."""
    texts, told, before, calls = [slm.checkpoint.render(chat) for chat in CHATS], {}, {}, []

    def choose(indices, generated, logits):
        calls.append(len(indices))
        if not before and len(indices) == 4 and {len(ids) for ids in generated} == {3}:
            before.update({i: list(ids) for i, ids in told.items()})
            raise MemoryError
        return torch.full((len(indices),), 100 + len(calls), device=logits.device)

    def on_token(index, token):
        told.setdefault(index, []).append(token)

    found = dict(slm.model.generate(texts, 5, 4, on_token, sampler=choose))
    assert capsys.readouterr().out == "out of memory with 4 row(s) at once: going on with 2\n"
    assert {i: ids[:3] for i, ids in told.items()} == before
    assert {len(ids) for ids in told.values()} == {5}
    assert {i: generation.output for i, generation in found.items()} == {
        i: slm.model.detokenise(ids) for i, ids in told.items()
    }


def test_of_requests_that_come_only_the_one_that_does_not_fit_is_refused(slm):
    class Crowd:
        waiting, refused = (
            [(slm.checkpoint.render(chat), 3 + i) for i, chat in enumerate(CHATS)],
            [],
        )

        def take(self, most):
            taken, self.waiting = self.waiting[:most], self.waiting[most:]
            return taken

        def list_gone(self):
            return []

        def refuse(self, index, error):
            self.refused.append((index, str(error)))

    def on_token(index, token):
        if index == 1:
            raise MemoryError

    crowd = Crowd()
    found = dict(slm.model.follow(crowd, 3, on_token))
    assert {i: g.completion_tokens for i, g in found.items()} == {
        i: 3 + i for i in range(len(CHATS)) if i != 1
    }
    assert found[0].output == dict(slm.generate([CHATS[0]], 3))[0].output
    [(index, said)] = crowd.refused
    assert index == 1
    assert "not enough memory" in said


def test_memory_too_small_for_one_row_says_so(slm):
    def choose(indices, generated, logits):
        raise MemoryError

    text = slm.checkpoint.render(PROMPT)
    with pytest.raises(
        RuntimeError, match=r"for one row of \d+ tokens and an answer of 5. Close other programs"
    ):
        list(slm.model.generate([text, text], 5, 2, sampler=choose))
    with pytest.raises(RuntimeError, match="something else"):
        list(slm.model.generate([text], 5, 2, sampler=fail))


def fail(*_):
    raise RuntimeError("something else")
