import os
import subprocess
import sys

import pytest

from swaplib.settings import ENV_FILE, ROOT, load_settings


def test_missing_variables_are_named_with_their_purpose_and_where_they_were_looked_up(monkeypatch):
    monkeypatch.delenv("AZURE_API_KEY")
    with pytest.raises(ValueError) as caught:
        load_settings().require("AZURE_API_KEY", "AZURE_ENDPOINT", "LANGFUSE_SECRET_KEY")
    message = str(caught.value)
    assert "AZURE_API_KEY: the key of the hosted LLM" in message
    assert "LANGFUSE_SECRET_KEY" in message
    assert "AZURE_ENDPOINT" not in message
    assert str(ENV_FILE) in message


def test_relative_paths_start_at_the_repository_and_not_at_the_working_folder(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWAP_HOME", "elsewhere")
    assert load_settings().swap_home == ROOT / "elsewhere"


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("SWAP_ROW_LIMIT", "")
    assert load_settings().swap_row_limit is None


@pytest.mark.parametrize(
    ("name", "value"), [("SWAP_ROW_LIMIT", "0"), ("SWAP_ROW_LIMIT", "ten"), ("SWAP_TRACING", "off")]
)
def test_a_value_of_the_wrong_form_names_the_variable_and_not_the_value(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name) as caught:
        load_settings()
    assert f"'{value}'" not in str(caught.value)


def test_no_representation_of_the_settings_shows_a_key(monkeypatch):
    for name in ("AZURE_API_KEY", "LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"):
        monkeypatch.setenv(name, "canary")
    assert load_settings().langfuse_secret_key == "canary"
    assert "canary" not in repr(load_settings())


def load_in_a_process(path, env: dict[str, str]) -> subprocess.CompletedProcess:
    code = "from swaplib.settings import load_settings; print(load_settings().azure_deployment)"
    env = {name: value for name, value in env.items() if name != "AZURE_DEPLOYMENT"} | {
        "SWAP_ENV_FILE": str(path)
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_a_file_of_variables_that_is_not_utf_8_is_named(tmp_path, encoding):
    path = tmp_path / "of-windows.env"
    path.write_bytes("AZURE_DEPLOYMENT=gpt\nAZURE_API_KEY=schlüssel\n".encode(encoding))
    done = load_in_a_process(path, dict(os.environ))
    assert done.returncode == 1
    assert f"{path} is not UTF-8" in done.stderr
    assert "schl" not in done.stderr


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {} ", "\t{}"])
@pytest.mark.parametrize(
    "name",
    ["AZURE_API_KEY", "SLM_API_KEY", "LANGFUSE_SECRET_KEY", "AZURE_ENDPOINT", "SLM_BASE_URL"],
)
def test_what_stands_around_a_copied_key_or_address_is_dropped(monkeypatch, name, around):
    monkeypatch.setenv(name, around.format("https://host/v1"))
    assert getattr(load_settings(), name.lower()) == "https://host/v1"


@pytest.mark.parametrize("value", ["a key", "key\nkey", "k\u200bey", "\u201ckey\u201d", "key\x7f"])
@pytest.mark.parametrize("name", ["AZURE_API_KEY", "SLM_BASE_URL"])
def test_a_key_or_address_that_cannot_be_sent_is_named_and_not_shown(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: .*copy it again") as caught:
        load_settings()
    assert value not in str(caught.value)


def test_a_variable_of_blanks_alone_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("AZURE_API_KEY", " \n")
    with pytest.raises(ValueError, match="Not set, but needed here"):
        load_settings().require("AZURE_API_KEY")
