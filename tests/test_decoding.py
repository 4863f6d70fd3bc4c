import gc
import math
import random

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Cache, GenerationConfig

from swaplib.models import decoding
from swaplib.models.decoding import ATTENTION, decode, prepare

pytestmark = pytest.mark.slow

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 97,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
ENDS = list(range(40, 48))  # several, so that random answers end at different steps
SYSTEM = [3, 14, 15, 92, 65, 35]


def make_model(kind: str, **sizes):
    """A real architecture with random weights, large enough that the logits differ clearly."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, **(GROUPED | {"initializer_range": 0.4, "tie_word_embeddings": False} | sizes)
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.generation_config = GenerationConfig(do_sample=False, eos_token_id=ENDS, pad_token_id=0)
    return model


def make_prompts(n: int, shared: list[int] = SYSTEM) -> list[list[int]]:
    """Prompts of different lengths that begin alike."""
    draw = random.Random(5)
    return [
        shared + [draw.randrange(8, 97) for _ in range(draw.randrange(1, 40))] for _ in range(n)
    ]


def ask_library(model, prompts, limit):
    """Each prompt alone, as transformers decodes it."""
    model.set_attn_implementation("sdpa")
    outputs = [
        model.generate(torch.tensor([p]), max_new_tokens=limit)[0, len(p) :].tolist()
        for p in prompts
    ]
    return {i: ids for i, ids in enumerate(outputs)}


def ask(model, prompts, limit, slots):
    return {answer.index: answer.ids for answer in decode(prepare(model), prompts, limit, slots)}


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral"])
@pytest.mark.parametrize("slots", [1, 3, 64])
def test_tokens_are_those_of_generate_for_each_prompt_alone(kind, slots):
    model, prompts = (
        make_model(kind, **({"sliding_window": None} if kind == "mistral" else {})),
        make_prompts(20),
    )
    expected = ask_library(model, prompts, 24)
    lengths = {len(ids) for ids in expected.values()}
    assert len(lengths) > 3, "the rows should end at different steps"
    assert ask(model, prompts, 24, slots) == expected
    assert model.config._attn_implementation == ATTENTION


def compute_by_hand(model, prompt, ids):
    """The logprobs of an answer's tokens, from one pass over prompt and answer."""
    model.set_attn_implementation("sdpa")
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()


def check_logprobs(model, prompts, answers):
    for answer in answers:
        by_hand = compute_by_hand(model, prompts[answer.index], answer.ids)
        assert answer.logprobs == pytest.approx(by_hand, abs=1e-4)
        assert max(answer.logprobs) <= 0
    logprobs = [logprob for answer in answers for logprob in answer.logprobs]
    assert min(logprobs) < -0.5, "tokens should differ in how sure they are"


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize(("slots", "tokens"), [(1, 1), (4, 1), (6, 60), (64, 100_000)])
def test_logprobs_are_those_of_the_logits_also_for_rows_that_join_later(
    monkeypatch, kind, slots, tokens
):
    monkeypatch.setitem(decoding.READ_AT_ONCE, "cpu", tokens)
    model, prompts = make_model(kind), make_prompts(20)
    answers = list(decode(prepare(model), prompts, 24, slots))
    assert any(answer.ids[-1] in ENDS for answer in answers), (
        "the end token's logprob should be looked at"
    )
    check_logprobs(model, prompts, answers)


def test_logprobs_of_a_model_left_to_the_library_are_those_of_the_logits():
    model, prompts = make_model("mistral", sliding_window=8), make_prompts(9)
    answers = list(decode(prepare(model), prompts, 24, 4))
    assert model.config._attn_implementation != ATTENTION
    assert len({len(answer.ids) for answer in answers}) > 1, (
        "the rows should end at different steps"
    )
    check_logprobs(model, prompts, answers)


def test_logprobs_of_a_bfloat16_model_are_float32_arithmetic():
    model, prompts = make_model("llama").to(torch.bfloat16), make_prompts(6)
    for answer in decode(prepare(model), prompts, 12, 3):
        by_hand = compute_by_hand(model, prompts[answer.index], answer.ids)
        # Logits of this size have steps of 1/16 in bfloat16.
        assert answer.logprobs == pytest.approx(by_hand, abs=0.1)
    near = torch.full((1, 97), -torch.inf, dtype=torch.bfloat16)
    near[0, [8, 9, 10]] = torch.tensor([12.0, 11.9375, -20.0], dtype=torch.bfloat16)
    [answer] = decode(model, prompts[:1], 1, 1, logits_hook=lambda indices, generated, logits: near)
    assert answer.ids == [8]
    assert answer.logprobs == [
        pytest.approx(-math.log(1 + math.exp(-0.0625) + math.exp(-32)), rel=1e-5)
    ]


@pytest.mark.parametrize("shared", [[], [3], SYSTEM * 6])
def test_whatever_the_prompts_share_the_tokens_are_the_same(shared):
    model, prompts = make_model("llama"), make_prompts(9, shared)
    assert ask(model, prompts, 12, 4) == ask_library(model, prompts, 12)


@pytest.mark.parametrize(("tokens", "part"), [(60, 1 / 2), (100_000, 1)])
def test_prompts_that_are_read_together_as_on_a_gpu_get_the_same_tokens(monkeypatch, tokens, part):
    model, prompts = make_model("llama"), make_prompts(20)
    expected = ask_library(model, prompts, 24)
    monkeypatch.setitem(decoding.READ_AT_ONCE, "cpu", tokens)
    monkeypatch.setitem(decoding.JOIN_AT, "cpu", part)
    shapes = watch_shapes(prepare(model))
    assert ask(model, prompts, 24, 6) == expected
    assert max(rows for rows, new in shapes if new > 1) > 1, "no two prompts were read together"


def watch_shapes(model):
    """The shapes of the ids that the model gets, call by call."""
    shapes = []
    model.register_forward_pre_hook(
        lambda _, __, asked: shapes.append(tuple(asked["input_ids"].shape)), with_kwargs=True
    )
    return shapes


def test_equal_prompts_get_equal_answers_and_a_prompt_may_be_what_others_begin_with():
    model, prompts = make_model("llama"), [SYSTEM, SYSTEM, [*SYSTEM, 9, 8], [3]]
    found = ask(model, prompts, 12, 4)
    assert found == ask_library(model, prompts, 12)
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", ["mistral", "gemma2", "bloom"])
def test_attention_that_is_not_full_or_not_exchangeable_is_left_to_the_library(kind):
    model, prompts = (
        make_model(kind, **({} if kind == "bloom" else {"sliding_window": 8})),
        make_prompts(5),
    )
    expected = ask_library(model, prompts, 10) if kind != "bloom" else {i: None for i in range(5)}
    found = ask(model, prompts, 10, 2)
    assert model.config._attn_implementation != ATTENTION
    assert set(found) == set(expected)
    if kind != "bloom":
        # Padding on the left may move a tie.
        assert sum(found[i] == expected[i] for i in found) >= 4


def test_each_token_is_told_as_it_comes():
    model, told = make_model("llama"), {}
    prompts = make_prompts(6)
    for answer in decode(
        prepare(model), prompts, 16, 2, lambda i, token: told.setdefault(i, []).append(token)
    ):
        assert told[answer.index] == answer.ids
        assert answer.seconds > 0
    assert set(told) == set(range(6))


def test_a_new_prompt_takes_the_slot_of_one_that_has_ended():
    model, prompts = make_model("llama"), make_prompts(20)
    told = []
    decoded = decode(prepare(model), prompts, 24, 4, lambda i, token: told.append(i))
    ended = [answer.index for answer in decoded]
    assert sorted(ended) == list(range(20))
    # It began before one of them ended.
    assert any(told.index(4) < len(told) - 1 - told[::-1].index(i) for i in range(4))


def test_rows_that_have_ended_and_memory_that_was_never_written_do_not_reach_others():
    model, prompts = make_model("llama"), make_prompts(12)
    whole = ask(model, prompts, 24, 5)
    again = ask(model, prompts[:5], 24, 5)
    assert {i: whole[i] for i in again} == again


def test_keys_and_values_are_free_as_soon_as_decoding_ends():
    model, prompts = make_model("llama"), make_prompts(4)
    gc.collect()
    # Nothing may wait for the collector: memory that ran out must be free again at once.
    gc.disable()
    try:
        ask(model, prompts, 4, 2)
        assert not any(isinstance(thing, Cache) for thing in gc.get_objects())
    finally:
        gc.enable()


def test_a_model_left_to_the_library_tells_its_tokens_too():
    model, told = make_model("mistral", sliding_window=8), {}
    decoded = decode(
        prepare(model),
        make_prompts(5),
        16,
        3,
        lambda i, token: told.setdefault(i, []).append(token),
    )
    assert {answer.index: answer.ids for answer in decoded} == told
    assert len({len(ids) for ids in told.values()}) > 1, "the rows should end at different steps"


@pytest.mark.parametrize("kind", ["deepseek_v3", "minicpm3"])
def test_values_of_another_size_than_queries_get_the_tokens_of_generate(kind):
    sizes = {"num_key_value_heads": 6, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4}
    sizes |= {"head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
    model, prompts = (
        make_model(kind, **sizes | ({"first_k_dense_replace": 9} if kind == "deepseek_v3" else {})),
        make_prompts(6),
    )
    expected = ask_library(model, prompts, 12)
    assert ask(model, prompts, 12, 3) == expected
    assert model.config._attn_implementation == ATTENTION


def test_attention_that_changes_the_mask_on_its_way_is_left_to_the_library():
    model, prompts = make_model("doge"), make_prompts(1)
    assert ask(model, prompts, 12, 1) == ask_library(model, prompts, 12)
    assert prepare(model).config._attn_implementation != ATTENTION


def test_the_example_at_the_top_of_the_module():
    model, asked, told, answers = prepare(make_model("llama")), [], [], []
    prompts, end, (u, v, w, x, y) = [[8, 9, 10], [8, 9, 11, 12], [8, 9, 13]], ENDS[0], range(20, 25)
    said = [[x, y, end], [end], [u, v, w]]

    def sampler(indices, generated, logits):
        asked.append(list(indices))
        return torch.tensor([said[i][len(ids)] for i, ids in zip(indices, generated, strict=True)])

    shapes = watch_shapes(model)
    for answer in decode(model, prompts, 3, 2, lambda *token: told.append(token), sampler=sampler):
        answers.append((answer.index, answer.ids, len(told)))
    assert answers == [(1, [end], 2), (0, [x, y, end], 6), (2, [u, v, w], 7)]
    assert asked == [[0], [1], [2], [0, 2], [0, 2]]  # a CPU reads one prompt at a time
    assert shapes == [(1, 2), (1, 1), (1, 2), (1, 1), (2, 1), (2, 1)]
    assert told == [(0, x), (1, end), (2, u), (0, y), (2, v), (0, end), (2, w)]


def forbid(token):
    def logits_hook(indices, generated, logits):
        return logits.index_fill(1, torch.tensor([token], device=logits.device), -torch.inf)

    return logits_hook


def take_second(indices, generated, logits):
    return logits.topk(2).indices[:, 1]


both_paths = pytest.mark.parametrize(
    ("kind", "sizes"), [("llama", {}), ("mistral", {"sliding_window": 8})], ids=["ours", "library"]
)


@both_paths
def test_a_logits_hook_forbids_a_token_and_changes_nothing_before_it(kind, sizes):
    model, prompts = prepare(make_model(kind, **sizes)), make_prompts(9)
    assert (model.config._attn_implementation == ATTENTION) is (kind == "llama")
    plain = {answer.index: answer.ids for answer in decode(model, prompts, 16, 4)}
    token = max(plain.values(), key=len)[2]
    found = {
        answer.index: answer.ids
        for answer in decode(model, prompts, 16, 4, logits_hook=forbid(token))
    }
    assert found != plain
    for index, ids in found.items():
        assert token not in ids
        before = plain[index].index(token) if token in plain[index] else len(plain[index])
        assert ids[:before] == plain[index][:before]


@both_paths
@pytest.mark.parametrize("slots", [1, 4])
def test_a_sampler_takes_the_second_best_and_logprobs_are_of_what_it_took(kind, sizes, slots):
    model, prompts, told = prepare(make_model(kind, **sizes)), make_prompts(9), {}
    found = list(
        decode(
            model,
            prompts,
            16,
            slots,
            lambda i, t: told.setdefault(i, []).append(t),
            sampler=take_second,
        )
    )
    assert {answer.index: answer.ids for answer in found} == told
    for answer in found:
        prompt = prompts[answer.index]
        assert answer.logprobs == pytest.approx(
            compute_by_hand(model, prompt, answer.ids), abs=1e-4
        )
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer.ids])).logits[0, len(prompt) - 1 : -1]
        assert answer.ids == take_second(None, None, logits).tolist()


@both_paths
def test_hooks_are_told_whose_logits_they_get_and_what_was_generated(kind, sizes):
    model, prompts, seen = prepare(make_model(kind, **sizes)), make_prompts(7), {}

    def logits_hook(indices, generated, logits):
        for i, ids, row in zip(indices, generated, logits, strict=True):
            seen.setdefault(i, []).append((list(ids), int(row.argmax())))
        return logits

    answers = {
        answer.index: answer.ids
        for answer in decode(model, prompts, 16, 3, logits_hook=logits_hook)
    }
    assert answers == {answer.index: answer.ids for answer in decode(model, prompts, 16, 3)}
    assert seen == {
        i: [(ids[:n], token) for n, token in enumerate(ids)] for i, ids in answers.items()
    }


def test_a_sampler_chooses_from_what_the_logits_hook_left():
    model, [prompt] = prepare(make_model("llama")), make_prompts(1)
    with torch.inference_mode():
        best, _, third = model(torch.tensor([prompt])).logits[0, -1].topk(3).indices.tolist()
    [answer] = decode(model, [prompt], 1, 1, logits_hook=forbid(best), sampler=take_second)
    assert answer.ids == [third]


class ScriptedFeed:
    """Prompts that come, and leave, at given steps."""

    def __init__(self, arrivals, departures=(), slots=4):
        self.arrivals, self.departures, self.slots, self.step, self.took = (
            dict(arrivals),
            dict(departures),
            slots,
            0,
            [],
        )

    def take(self, most):
        self.step += 1
        assert most <= self.slots
        due = [step for step in sorted(self.arrivals) if step <= self.step]
        given = []
        for step in due:
            while self.arrivals[step] and len(given) < most:
                given.append(self.arrivals[step].pop(0))
        self.took += given
        return given

    def list_gone(self):
        return [index for index, step in self.departures.items() if step <= self.step]


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("tokens", [1, 100_000])
@pytest.mark.parametrize("slots", [1, 3, 16])
def test_prompts_that_join_a_running_decoding_get_the_tokens_of_each_alone(
    monkeypatch, kind, tokens, slots
):
    monkeypatch.setitem(decoding.READ_AT_ONCE, "cpu", tokens)
    monkeypatch.setitem(decoding.JOIN_AT, "cpu", 1 / 8 if tokens == 1 else 1 / 2)
    monkeypatch.setitem(decoding.JOIN_WITHIN, "cpu", 0 if tokens == 1 else 5)
    draw, model = random.Random(7), make_model(kind)
    first, others = make_prompts(3), [*make_prompts(6), *make_prompts(9, [])]
    draw.shuffle(others)
    later = [(prompt, draw.randrange(1, 300 if i == 4 else 30)) for i, prompt in enumerate(others)]
    feed = ScriptedFeed({2: later[:4], 5: later[4:6], 9: later[6:12], 10: later[12:]}, slots=slots)
    expected = ask_library(model, first, 40)
    for i, (prompt, limit) in enumerate(later, len(first)):
        expected |= {i: ask_library(model, [prompt], limit)[0]}
    answers = list(decode(prepare(model), first, 40, slots, feed=feed))
    assert len(feed.took) == len(later), "the first answers should last until the others have come"
    assert {answer.index: answer.ids for answer in answers} == expected
    every = [*first, *(prompt for prompt, _ in later)]
    check_logprobs(model, every, answers)


def test_a_prompt_that_nobody_waits_for_leaves_its_slot_at_the_next_step():
    model, told = prepare(make_model("llama")), []
    model.generation_config.eos_token_id = 0
    first, later = make_prompts(3), [(prompt, 5) for prompt in make_prompts(4)[3:]]
    feed = ScriptedFeed({1: later}, {0: 4, 2: 1}, slots=2)
    answers = list(decode(model, first, 12, 2, lambda index, token: told.append(index), feed=feed))
    assert told.count(0) == 4
    assert told.count(2) == 0
    assert [answer.index for answer in answers] == [3, 1], (
        "the next one takes the slot that became free"
    )


def test_nothing_is_kept_of_a_prompt_that_has_left_while_others_are_in_flight(monkeypatch):
    flights = []

    class Watched(decoding.InFlight):
        def __init__(self, *args):
            super().__init__(*args)
            flights.append(self)

    model, seen = prepare(make_model("llama")), []
    monkeypatch.setattr(decoding, "InFlight", Watched)
    model.generation_config.eos_token_id = 0

    def look(index: int, token: int) -> None:
        [flight] = flights
        assert set(flight.started_at) == set(flight.logprobs)
        seen.append(set(flight.started_at))

    first, later = make_prompts(3), [(prompt, 5) for prompt in make_prompts(4)[3:]]
    feed = ScriptedFeed({1: later}, {0: 4, 2: 1}, slots=2)
    list(decode(model, first, 12, 2, look, feed=feed))
    assert {0, 1} in seen
    assert seen[-1] == {1}, "0 and 3 have left, and 1 is still in flight"


def test_a_feed_works_for_a_model_left_to_the_library():
    model, first = make_model("mistral", sliding_window=8), make_prompts(3)
    later = [(prompt, 6 + i % 2) for i, prompt in enumerate(make_prompts(9)[3:])]
    feed = ScriptedFeed({1: later[:2], 2: later[2:]}, {5: 2}, slots=2)
    answers = {
        answer.index: answer.ids for answer in decode(prepare(model), first, 8, 2, feed=feed)
    }
    alone = ask_library(model, first, 8)
    alone |= {
        i: ask_library(model, [prompt], limit)[0] for i, (prompt, limit) in enumerate(later, 3)
    }
    del alone[5]
    assert answers == alone


def test_a_prompt_beside_a_free_slot_waits_for_so_many_steps_at_most(monkeypatch):
    monkeypatch.setitem(decoding.JOIN_AT, "cpu", 1)
    monkeypatch.setitem(decoding.JOIN_WITHIN, "cpu", 4)
    model, order = prepare(make_model("llama")), []
    model.generation_config.eos_token_id = 0
    first, later = make_prompts(2), [(prompt, 2) for prompt in make_prompts(3)[2:]]
    feed = ScriptedFeed({1: later}, {0: 2}, slots=2)
    list(decode(model, first, 30, 2, lambda index, token: order.append(index), feed=feed))
    assert order[: order.index(2)] == [0, 1, 0, 1, *[1] * 4]
    assert order.count(1) == 30
