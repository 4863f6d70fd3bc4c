"""What `swap serve` does with clients that leave, stay silent, or come in crowds or from afar."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest

from swaplib.serving.server_process import find_free_port

pytestmark = pytest.mark.slow


@contextlib.contextmanager
def serving(checkpoint, *options: str, descriptors: int | None = None):
    """A server process of our own; yields its root."""
    port = find_free_port()
    command = [
        sys.executable,
        "-m",
        "swaplib.cli",
        "serve",
        "--model",
        str(checkpoint.path),
        "--dtype",
        "float32",
    ]
    command += ["--port", str(port), *options]
    if descriptors:
        command = ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "bash", *command]
    process = subprocess.Popen(
        command, env=os.environ | {"SLM_API_KEY": ""}, stdout=subprocess.PIPE, text=True
    )
    root = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{root}/health", timeout=5)
                break
            time.sleep(0.1)
        yield root
    finally:
        process.terminate()
        process.wait(timeout=90)
        process.stdout.close()


@pytest.fixture(scope="module")
def root(checkpoint):
    with serving(checkpoint, "--batch-size", "2", "--max-waiting", "3") as found:
        yield found


def make_body(limit: int, text: str = "Count to a thousand.", **more):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": limit} | more


def wait_for(root: str, **counts: int) -> None:
    deadline = time.monotonic() + 60
    while any(httpx.get(f"{root}/health").json()[name] != count for name, count in counts.items()):
        assert time.monotonic() < deadline, (counts, httpx.get(f"{root}/health").json())
        time.sleep(0.02)


def open_request(root: str, body: dict) -> socket.socket:
    """A request whose answer nobody has read yet."""
    host, _, port = root.removeprefix("http://").partition(":")
    content = json.dumps(body).encode()
    found = socket.create_connection((host, int(port)))
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    )
    found.sendall(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
    return found


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_client_that_leaves_frees_its_place(root, is_streamed):
    leaving = [open_request(root, make_body(4000, stream=is_streamed)) for _ in range(2)]
    wait_for(root, in_work=2)
    staying = open_request(root, make_body(1))
    wait_for(root, waiting=1)
    for client in leaving:
        client.close()
    assert staying.recv(100).startswith(b"HTTP/1.1 200"), (
        "it gets one of the places, long before the others would have ended"
    )
    staying.close()
    wait_for(root, in_work=0, waiting=0)


def test_a_client_that_leaves_while_it_waits_is_never_answered(root):
    working = [open_request(root, make_body(4000)) for _ in range(2)]
    wait_for(root, in_work=2)
    waiting = open_request(root, make_body(4000))
    wait_for(root, waiting=1)
    waiting.close()
    for client in working:
        client.close()
    wait_for(root, in_work=0, waiting=0)


def test_a_full_queue_says_when_to_come_back(root):
    clients = [open_request(root, make_body(4000)) for _ in range(2)]
    wait_for(root, in_work=2)
    clients += [open_request(root, make_body(4000)) for _ in range(3)]
    wait_for(root, waiting=3)
    for is_streamed in (False, True):
        answer = httpx.post(f"{root}/v1/chat/completions", json=make_body(1, stream=is_streamed))
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) > 0
        assert answer.json()["error"]["code"] == "server_busy"
    for client in clients:
        client.close()
    wait_for(root, in_work=0, waiting=0)


def test_requests_join_those_that_are_being_answered(root):
    long = open_request(root, make_body(4000))
    wait_for(root, in_work=1)
    answer = httpx.post(f"{root}/v1/chat/completions", json=make_body(2), timeout=60)
    assert answer.json()["usage"]["completion_tokens"] == 2
    assert httpx.get(f"{root}/health").json()["in_work"] == 1, (
        "the long one is still being answered"
    )
    long.close()
    wait_for(root, in_work=0)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("[::2]", 403),
        ("[::1]:{port}", 200),
        ("localhost", 200),
        ("127.0.0.1:{port}", 200),
    ],
)
def test_on_loopback_only_requests_to_this_machine_are_answered(root, host, status):
    headers = {"host": host.format(port=root.rpartition(":")[2])}
    for path in ("/health", "/v1/models"):
        assert httpx.get(f"{root}{path}", headers=headers).status_code == status


def test_silent_clients_do_not_take_the_server_down(checkpoint):
    with serving(checkpoint, descriptors=256) as found:
        host, _, port = found.removeprefix("http://").partition(":")
        with contextlib.ExitStack() as silent:
            for i in range(400):
                client = silent.enter_context(socket.create_connection((host, int(port))))
                if i % 2:
                    client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n")
            for _ in range(5):
                assert httpx.get(f"{found}/health", timeout=10).json()["status"] == "ok"
            answer = httpx.post(f"{found}/v1/chat/completions", json=make_body(2), timeout=60)
            assert answer.json()["usage"]["completion_tokens"] == 2


def test_headers_and_bodies_that_never_end_are_cut_off(root):
    host, _, port = root.removeprefix("http://").partition(":")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
    slow = {
        "nothing": b"",
        "half a header": head,
        "half a body": head + b"content-length: 9000\r\n\r\n{",
    }

    def send(part: bytes) -> bytes:
        with socket.create_connection((host, int(port))) as client:
            client.sendall(part)
            client.settimeout(60)
            return client.recv(1000)

    with ThreadPoolExecutor(3) as pool:
        said = dict(zip(slow, pool.map(send, slow.values()), strict=True))
    assert said["nothing"] == said["half a header"] == b""
    assert said["half a body"].startswith(b"HTTP/1.1 408")


def test_a_key_from_a_file_is_asked_for_and_does_not_stand_in_the_process_list(
    checkpoint, tmp_path
):
    (tmp_path / "key").write_text("open-sesame\n")
    with serving(checkpoint, "--api-key-file", str(tmp_path / "key")) as found:
        assert httpx.get(f"{found}/v1/models").status_code == 401
        assert (
            httpx.get(f"{found}/v1/models", headers={"api-key": "open-sesame"}).status_code == 200
        )
        listed = [
            " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
        ]
    assert any("--api-key-file" in line for line in listed)
    assert not any("open-sesame" in line for line in listed)


def test_a_server_process_ends_with_the_process_that_needed_it(checkpoint):
    """Killed, so that nothing of its own can end the server."""
    code = """
import sys, time
from pathlib import Path
from swaplib.models.local import LocalSLM
from swaplib.models.local_checkpoint import Checkpoint
from swaplib.serving.server_process import running_server
with running_server(LocalSLM(Checkpoint(Path(sys.argv[1]), precision="float32")), "slm") as root:
    print(root, flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", code, checkpoint.path], stdout=subprocess.PIPE, text=True
    )
    found = parent.stdout.readline().strip()
    server = psutil.Process(httpx.get(f"{found}/health").json()["pid"])
    parent.kill()
    parent.wait()
    parent.stdout.close()
    server.wait(timeout=30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{found}/health")
