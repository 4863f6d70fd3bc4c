"""One way to every server: proxies, limits, bodies and words."""

import gzip
import json
import time

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers import as_json, serving

from swaplib import web


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "[::1]", "localhost", "LOCALHOST"])
def test_this_machine_is_never_asked_through_a_proxy(monkeypatch, host):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert web.find_proxy(f"http://{host}:8000/v1") is None
    assert web.find_proxy("http://elsewhere:8000/v1") == "http://proxy:3128"


@pytest.mark.parametrize(
    "proxy", ["socks5://127.0.0.1:7891", "socks5h://u:p@127.0.0.1:7891", "127.0.0.1:7891"]
)
def test_a_client_can_be_made_under_any_proxy_and_any_exception(monkeypatch, proxy):
    monkeypatch.setenv("all_proxy", proxy)
    monkeypatch.setenv(
        "no_proxy", "localhost,127.0.0.0/8,::1/128,10.0.0.0/8,fd00::/8,.corp,[fe80::1]"
    )
    web.open_client("https://elsewhere/v1").close()
    for direct in ("https://10.2.3.4/v1", "https://[fd00::7]/v1", "https://llm.corp/v1"):
        assert web.find_proxy(direct) is None
    assert web.find_proxy("https://11.2.3.4/v1") is not None


def test_a_proxy_that_no_client_can_use_is_said_without_its_password(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", "gopher://user:secret@proxy:1")
    with pytest.raises(ValueError, match="NO_PROXY") as caught:
        web.find_proxy("https://elsewhere/v1")
    assert "secret" not in str(caught.value)


def test_a_proxy_of_the_environment_is_gone_through(monkeypatch):
    with serving(lambda exchange: as_json({"asked": exchange.path})) as (proxy, seen):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with web.open_client("http://elsewhere.invalid/v1") as client:
            assert client.get("/models").status_code == 200
        assert seen[0].path == "http://elsewhere.invalid/v1/models"


def test_no_redirect_is_followed():
    with serving(lambda exchange: (302, {"location": "/elsewhere"}, b"")) as (root, seen):
        with web.open_client(root) as client:
            assert client.get("/models").status_code == 302
        assert len(seen) == 1


@pytest.mark.parametrize("is_packed", [True, False])
def test_an_answer_ends_at_the_limit_however_it_is_packed(is_packed):
    content = b"0" * (web.LIMIT_BYTES + 1)
    headers = {"content-encoding": "gzip"} if is_packed else {}
    sent = gzip.compress(content) if is_packed else content
    with (
        serving(lambda _: (200, headers, sent)) as (root, _),
        web.open_client(root) as client,
        pytest.raises(httpx2.ReadError) as caught,
    ):
        client.get("/")
    assert "16 MiB" in web.explain(caught.value)


def test_a_packed_answer_is_unpacked():
    packed = (200, {"content-encoding": "gzip"}, gzip.compress(b'{"a": 1}'))
    with serving(lambda _: packed) as (root, _), web.open_client(root) as client:
        assert client.get("/").json() == {"a": 1}


@given(
    st.binary()
    | st.recursive(st.none(), lambda inner: st.lists(inner)).map(
        lambda value: json.dumps(value).encode()
    )
)
def test_any_bytes_are_parsed_or_none(content):
    web.parse_body(content)


def test_deep_and_endless_json_is_none():
    assert web.parse_body(b"[" * 200_000) is None
    assert web.parse_body(b'{"a":' * 200_000) is None
    assert web.parse_body(b"9" * 100_000) is None
    assert web.parse_body(b'{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(
    ("scheme", "headers", "said"),
    [
        ("http", {"authorization": "Bearer key\n"}, "nothing was sent"),
        ("https", {}, "http:// rather than https://"),
    ],
)
def test_why_there_was_no_answer_is_said(scheme, headers, said):
    with (
        serving(lambda _: as_json({})) as (root, _),
        web.open_client(root.replace("http", scheme), headers=headers) as client,
        pytest.raises(httpx2.TransportError) as caught,
    ):
        client.get("/")
    assert said in web.explain(caught.value)
    assert "key" not in web.explain(caught.value).replace("the key or", "")


def test_a_closed_port_is_said():
    with serving(lambda _: as_json({})) as (root, _):
        pass
    with web.open_client(root) as client, pytest.raises(httpx2.ConnectError) as caught:
        client.get("/")
    assert web.explain(caught.value) == "nothing listens there"


def test_an_answer_that_drips_ends_at_the_limit_of_time():
    def drip():
        for _ in range(40):
            time.sleep(0.1)
            yield b" "

    answer = (200, {"content-length": "1000"}, drip())
    with (
        serving(lambda _: answer) as (root, _),
        web.open_client(root, timeout_s=0.5) as client,
        pytest.raises(httpx2.ReadTimeout) as caught,
    ):
        client.get("/")
    assert web.explain(caught.value) == "no answer in time"
