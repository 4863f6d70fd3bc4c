"""GGUF files as checkpoints: small ones, of another architecture than the packaged file's."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map
from transformers import AutoModelForCausalLM, Starcoder2Config, Starcoder2ForCausalLM
from typer.testing import CliRunner

from swaplib import cli
from swaplib.files import hash_file
from swaplib.models import checkpoints
from swaplib.models.gguf_files import list_architectures
from swaplib.models.local_checkpoint import Checkpoint

pytestmark = pytest.mark.slow

N_TOKENS = 600
SPECIAL = 17  # the packaged vocabulary begins with so many control tokens
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def vocabulary(checkpoint) -> dict[str, list]:
    """The first tokens of the packaged vocabulary, with the merges that make them."""
    bpe = json.loads((checkpoint.path / "tokenizer.json").read_text())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].__getitem__)[:N_TOKENS]
    merges = [" ".join(pair) for pair in bpe["merges"] if {*pair, "".join(pair)} <= set(tokens)]
    return {"tokens": tokens, "merges": merges, "kinds": [3] * SPECIAL + [1] * (N_TOKENS - SPECIAL)}


@pytest.fixture(scope="module")
def model() -> Starcoder2ForCausalLM:
    """A seeded StarCoder2 of two layers in bfloat16 values, with a rotary base of its own."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    rope = {"rope_theta": 999_999.0, "rope_type": "default"}
    config = Starcoder2Config(
        vocab_size=N_TOKENS,
        num_key_value_heads=2,
        max_position_embeddings=256,
        rope_parameters=rope,
        **sizes,
    )
    model = Starcoder2ForCausalLM(config).eval()
    for weight in model.parameters():
        weight.data = torch.randn_like(weight).mul(0.3).bfloat16().float()
    return model


@pytest.fixture(scope="module")
def write(model, vocabulary):
    """Writes the model as a GGUF file; `changes` take the place of metadata, None leaves a key out.

    `untrained` are tokens whose embedding is that of the one before them.
    """

    def write(file: Path, parts: int = 1, **changes) -> Path:
        config = model.config
        metadata = {
            "starcoder2.context_length": config.max_position_embeddings,
            "starcoder2.embedding_length": config.hidden_size,
            "starcoder2.feed_forward_length": config.intermediate_size,
            "starcoder2.block_count": config.num_hidden_layers,
            "starcoder2.attention.head_count": config.num_attention_heads,
            "starcoder2.attention.head_count_kv": config.num_key_value_heads,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.padding_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0,
        }
        writer = GGUFWriter(
            file, changes.pop("architecture", "starcoder2"), split_max_tensors=-(-39 // parts) % 39
        )
        for key, value in metadata.items():
            if (value := changes.get(key.rpartition(".")[2], value)) is not None:
                writer.add_uint32(key, value)
        writer.add_float32("starcoder2.rope.freq_base", config.rope_parameters["rope_theta"])
        writer.add_float32("starcoder2.attention.layer_norm_epsilon", config.norm_epsilon)
        writer.add_tokenizer_model("gpt2")
        tokens = changes.get("tokens", vocabulary["tokens"])
        writer.add_token_list(tokens)
        writer.add_token_types(changes.get("kinds", vocabulary["kinds"]))
        writer.add_token_merges(
            [merge for merge in vocabulary["merges"] if merge.replace(" ", "") in tokens]
        )
        writer.add_string("starcoder2.rope.scaling.type", changes.get("scaling", "none"))
        writer.add_string("tokenizer.chat_template", changes.get("template", TEMPLATE))
        names = get_tensor_name_map(MODEL_ARCH.STARCODER2, config.num_hidden_layers)
        weights = {name: weight.clone() for name, weight in model.state_dict().items()}
        for i in changes.get("untrained", ()):
            weights["model.embed_tokens.weight"][i] = weights["model.embed_tokens.weight"][i - 1]
        for name, weight in weights.items():
            if name != "lm_head.weight" or not config.tie_word_embeddings:
                writer.add_tensor(
                    names.get_name(name, try_suffixes=(".weight", ".bias")), weight.numpy()
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return file

    return write


@pytest.fixture(scope="module")
def tiny(write, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("gguf") / "Tiny-Coder-F32.gguf")


@pytest.fixture(scope="module")
def imported(tiny, tmp_path_factory) -> Path:
    return checkpoints.import_gguf(
        tiny, tmp_path_factory.mktemp("models"), sha256=[hash_file(tiny)]
    )


def test_a_file_of_another_architecture_computes_the_logits_of_its_source(imported, model):
    read = AutoModelForCausalLM.from_pretrained(imported, dtype=torch.float32)
    ids = torch.arange(N_TOKENS)[None, ::7]
    with torch.no_grad():
        found, expected = read(ids).logits, model(ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_the_checkpoint_is_named_by_its_file_and_says_what_it_was_made_of(imported, tiny):
    assert imported.name == "tiny-coder-f32"
    assert json.loads((imported / "source.json").read_text()) == {
        "repo_id": "Tiny-Coder-F32.gguf",
        "revision": None,
        "commit": hash_file(tiny),
        "architecture": "starcoder2",
        "quantisation": "F32",
        "tokens": {
            "end": ["<|im_end|>"],
            "padding": "<|endoftext|>",
            "padding_is": "the file's unknown token",
        },
    }


def test_config_generation_config_and_tokenizer_state_the_same_tokens(imported):
    for name in ("config.json", "generation_config.json"):
        stated = json.loads((imported / name).read_text())
        assert (stated["bos_token_id"], stated["eos_token_id"], stated["pad_token_id"]) == (1, 2, 0)
    tokenizer = Checkpoint(imported).tokenizer
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)


def test_a_control_token_is_one_token_and_none_is_beyond_the_vocabulary(imported):
    tokenizer = Checkpoint(imported).tokenizer
    assert tokenizer("<|im_start|><file_sep>", add_special_tokens=False)["input_ids"] == [1, 5]
    assert len(tokenizer) == N_TOKENS


@pytest.mark.parametrize(
    ("changes", "ends", "padding", "padding_is"),
    [
        ({"eos_token_id": 0, "padding_token_id": 0}, [2, 0], 599, "an unused token"),
        ({"padding_token_id": 6}, 2, 6, "the file's padding token"),
        (
            {"eos_token_id": None, "padding_token_id": None, "bos_token_id": None},
            2,
            0,
            "the file's unknown token",
        ),
        (
            {"template": TEMPLATE.replace("<|im_end|>", ""), "eos_token_id": 0},
            0,
            2,
            "the file's padding token",
        ),
    ],
)
def test_the_template_says_what_ends_an_answer_and_padding_is_no_end(
    write, tmp_path, vocabulary, changes, ends, padding, padding_is
):
    kinds = [*vocabulary["kinds"][:-1], 5]
    made = checkpoints.import_gguf(
        write(tmp_path / "a.gguf", kinds=kinds, **changes), tmp_path / "models"
    )
    stated = json.loads((made / "generation_config.json").read_text())
    assert (stated["eos_token_id"], stated["pad_token_id"]) == (ends, padding)
    assert json.loads((made / "source.json").read_text())["tokens"]["padding_is"] == padding_is


def cut(file: Path, n_bytes: int) -> Path:
    file.write_bytes(file.read_bytes()[:n_bytes])
    return file


def corrupt(file: Path) -> Path:
    file.write_bytes(b"PK\x03\x04" + file.read_bytes()[4:])
    return file


BROKEN = {
    "cut off among its weights": (
        lambda w, f: cut(w(f), -1000),
        {},
        "a.gguf is cut off or damaged",
    ),
    "cut off in its header": (lambda w, f: cut(w(f), 2000), {}, "a.gguf is cut off or damaged"),
    "no GGUF": (lambda w, f: corrupt(w(f)), {}, r"a.gguf is no GGUF file: it begins with b'PK"),
    "another hash": (
        lambda w, f: w(f),
        {"sha256": ["0" * 64]},
        r"expected sha256 000.*found a.gguf [0-9a-f]{64}",
    ),
    "architecture": (
        lambda w, f: w(f, architecture="clip"),
        {},
        "architecture 'clip' cannot be read.*gemma2.*qwen2",
    ),
    "no chat template": (
        lambda w, f: w(f, template=""),
        {},
        "has no chat template.*take an instruct model",
    ),
    "a template that fails": (
        lambda w, f: w(f, template="{% for"),
        {},
        "chat template cannot be filled",
    ),
    "no end": (
        lambda w, f: w(f, template="{{ messages[-1].content }}", eos_token_id=None),
        {},
        "no special token follows an answer",
    ),
    "no padding": (
        lambda w, f: w(f, padding_token_id=None, unknown_token_id=2),
        {},
        "none to spare",
    ),
    "a name that is a path": (lambda w, f: w(f), {"name": "../a"}, "cannot be a checkpoint's name"),
    "lacking weights": (
        lambda w, f: w(f, block_count=3),
        {},
        "lacks 16 weight.* of its architecture: model.layers.2",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_refused_with_its_reason_and_leaves_nothing(write, tmp_path, kind):
    make, options, reason = BROKEN[kind]
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        checkpoints.import_gguf(make(write, tmp_path / "a.gguf"), tmp_path / "models", **options)
    assert not (tmp_path / "models").exists() or list((tmp_path / "models").iterdir()) == []


def test_a_split_file_is_joined_from_any_of_its_parts_and_equals_the_whole(
    write, tmp_path, imported
):
    write(tmp_path / "tiny.gguf", parts=3)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert [part.name for part in parts] == [f"tiny-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    made = checkpoints.import_gguf(
        parts[1], tmp_path / "models", sha256=[hash_file(part) for part in parts]
    )
    assert made.name == "tiny"
    assert checkpoints.hash_checkpoint(made) == checkpoints.hash_checkpoint(imported)
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["tiny"]


def test_a_missing_part_and_one_under_another_name_are_said(write, tmp_path):
    write(tmp_path / "tiny.gguf", parts=3)
    (tmp_path / "tiny-00002-of-00003.gguf").rename(tmp_path / "second.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"no file at \S*tiny-00002-of-00003.gguf. .* one of 3 parts"
    ):
        checkpoints.import_gguf(tmp_path / "tiny-00001-of-00003.gguf", tmp_path / "models")
    shutil.copy(tmp_path / "tiny-00003-of-00003.gguf", tmp_path / "tiny-00002-of-00003.gguf")
    with pytest.raises(ValueError, match=r"tiny-00002-of-00003.gguf: expected part 1 of 3"):
        checkpoints.import_gguf(tmp_path / "tiny-00001-of-00003.gguf", tmp_path / "models")
    with pytest.raises(ValueError, match="one part of several"):
        checkpoints.import_gguf(
            (tmp_path / "tiny-00001-of-00003.gguf").rename(tmp_path / "t.gguf"), tmp_path / "models"
        )


def test_a_blob_without_a_suffix_is_known_by_its_first_bytes_and_needs_a_name(
    tiny, tmp_path, imported
):
    blob = Path(shutil.copy(tiny, tmp_path / f"sha256-{hash_file(tiny)}"))
    with pytest.raises(ValueError, match=r"has no .gguf suffix: say with --name"):
        checkpoints.import_gguf(blob, tmp_path / "models")
    made = checkpoints.import_gguf(blob, tmp_path / "models", "Tiny")
    assert made == tmp_path / "models" / "tiny"
    assert checkpoints.hash_checkpoint(made) == checkpoints.hash_checkpoint(imported)


def test_the_same_file_is_read_once_and_another_source_of_its_name_is_refused(
    imported, tiny, tmp_path, write
):
    made = (imported / "model.safetensors").stat().st_mtime_ns
    assert checkpoints.import_gguf(tiny, imported.parent) == imported
    assert (imported / "model.safetensors").stat().st_mtime_ns == made
    other = write(tmp_path / tiny.name, context_length=128)
    with pytest.raises(
        ValueError, match=r"holds Tiny-Coder-F32.gguf at [0-9a-f]{64}, not .* Move that folder away"
    ):
        checkpoints.import_gguf(other, imported.parent)


def test_a_user_defined_token_is_one_token_and_stays_in_the_text(write, tmp_path, vocabulary):
    tokens, kinds = [*vocabulary["tokens"][:-1], "</tool_call>"], [*vocabulary["kinds"][:-1], 4]
    made = checkpoints.import_gguf(
        write(tmp_path / "a.gguf", tokens=tokens, kinds=kinds), tmp_path / "models"
    )
    tokenizer = Checkpoint(made).tokenizer
    ids = tokenizer("a</tool_call><|im_end|>", add_special_tokens=False)["input_ids"]
    assert ids[-2:] == [N_TOKENS - 1, 2]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a</tool_call>"


def test_a_token_that_no_training_has_touched_is_read_as_the_text_it_is(
    write, tmp_path, vocabulary
):
    tokens, kinds = (
        [*vocabulary["tokens"][:-2], "<seen>", "</tool_call>"],
        [*vocabulary["kinds"][:-2], 4, 4],
    )
    file = write(tmp_path / "a.gguf", tokens=tokens, kinds=kinds, untrained=[N_TOKENS - 1])
    twins = checkpoints.import_gguf(file, tmp_path / "models")  # each is the other's twin
    kinds[-2] = 1
    file = write(tmp_path / "b.gguf", tokens=tokens, kinds=kinds, untrained=[N_TOKENS - 1])
    alone = checkpoints.import_gguf(file, tmp_path / "models")
    for made, untrained in ((twins, ["<seen>", "</tool_call>"]), (alone, ["</tool_call>"])):
        assert json.loads((made / "source.json").read_text())["tokens"]["untrained"] == untrained
        tokenizer = Checkpoint(made).tokenizer
        ids = tokenizer("a</tool_call><|im_end|>", add_special_tokens=False)["input_ids"]
        assert N_TOKENS - 1 not in ids
        assert ids[-1] == 2
        assert tokenizer.decode(ids, skip_special_tokens=True) == "a</tool_call>"


def test_a_model_without_an_end_and_positions_that_are_not_read_are_warned_of(
    write, tmp_path, capsys
):
    made = checkpoints.import_gguf(write(tmp_path / "a.gguf", scaling="yarn"), tmp_path / "models")
    assert made.is_dir()
    warnings = capsys.readouterr().err
    assert "warning: a: a greedy answer to 'Say hi' had no end token within 64 tokens" in warnings
    assert (
        "warning: a: the file stretches positions for long texts (starcoder2.rope.scaling)"
        in warnings
    )


def test_the_architectures_are_those_of_causal_models_by_the_names_that_files_have():
    known = list_architectures()
    assert {"llama", "qwen2", "qwen2moe", "gemma3", "starcoder2"} <= set(known)
    assert not {"t5", "general", "tokenizer", "clip"} & set(known)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "either the NAME of a checkpoint or --gguf FILE: neither was given"),
        (["owner/name", "--gguf", "a.gguf"], "both were given"),
        (["owner/name", "--sha256", "0"], "go with --gguf FILE alone"),
        (["--gguf", "a.gguf", "--revision", "main"], "pinned by --sha256"),
    ],
)
def test_the_command_says_what_does_not_go_together(arguments, reason):
    done = CliRunner().invoke(cli.app, ["download", *arguments])
    assert reason in str(done.exception)


def test_the_command_imports_a_file(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("SLM_MODEL_PATH", str(tmp_path / "models" / "any"))
    done = CliRunner().invoke(
        cli.app, ["download", "--gguf", str(tiny), "--name", "t", "--sha256", hash_file(tiny)]
    )
    assert done.exit_code == 0, done.exception
    checkpoints.check_checkpoint(tmp_path / "models" / "t")
