"""Real HTTP servers on loopback, for the real clients to talk to."""

import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer


class Exchange:
    """One request: method, path without query, headers, raw body."""

    def __init__(self, method: str, path: str, headers, body: bytes):
        self.method, self.path, self.headers, self.body = (
            method,
            path.partition("?")[0],
            headers,
            body,
        )
        self.query = path.partition("?")[2]

    def json(self):
        return json.loads(self.body)


Answer = tuple[int, dict[str, str], bytes | Iterator[bytes]]


@contextmanager
def serving(answer: Callable[[Exchange], Answer]) -> Iterator[tuple[str, list[Exchange]]]:
    """Serve `answer` on a free port; yields the root URL and the requests so far, in arrival order.

    Content given as an iterator is sent part by part, under a content-length of its own, and then
    the connection is closed. When `answer` raises ConnectionError it is closed without a byte.
    """
    exchanges: list[Exchange] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _handle(self):
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:  # the client was killed while sending
                self.close_connection = True
                return
            exchange = Exchange(self.command, self.path, self.headers, body)
            exchanges.append(exchange)
            status, headers, content = answer(exchange)
            self.send_response(status)
            is_whole = isinstance(content, bytes)
            length = {"content-length": str(len(content))} if is_whole else {}
            for name, value in {"content-type": "application/json", **length, **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            for part in [content] if is_whole else content:
                if self.command != "HEAD":
                    self.wfile.write(part)
            self.close_connection = not is_whole

        do_GET = do_POST = do_HEAD = _handle  # noqa: N815 - http.server's names

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            if not isinstance(
                sys.exception(), ConnectionError
            ):  # a client that went away, or is sent away
                super().handle_error(request, client_address)

    with _running(Server(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_port}", exchanges


@contextmanager
def serving_lines(answer: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """Answer every connection with the same bytes; yields the address and the request lines."""
    lines: list[bytes] = []

    class Handler(StreamRequestHandler):
        def handle(self):
            lines.append(self.rfile.readline().rstrip())
            self.wfile.write(answer)

    with _running(ThreadingTCPServer(("127.0.0.1", 0), Handler)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}", lines


@contextmanager
def serving_tls(folder: Path) -> Iterator[tuple[int, Path]]:
    """A server for https at `localhost`, its certificate unknown; yields its port and that file."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject],
        check=True,
        stderr=-3,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    class Server(ThreadingHTTPServer):
        def handle_error(self, request, client_address):
            pass  # a client that does not trust it goes away

        def finish_request(self, request, client_address):
            with context.wrap_socket(request, server_side=True) as wrapped:
                self.RequestHandlerClass(wrapped, client_address, self)

    with _running(Server(("127.0.0.1", 0), BaseHTTPRequestHandler)) as server:
        yield server.server_port, certificate


@contextmanager
def _running(server):
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def as_json(value, status: int = 200, **headers: str) -> Answer:
    return status, headers, json.dumps(value).encode()


def completion(text: str | None, finish_reason: str = "stop") -> Answer:
    """A chat completion as the API writes it."""
    message = {"role": "assistant", "content": text}
    return as_json(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
            "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        }
    )


def refusal(
    status: int, code: str | None = None, param: str | None = None, **headers: str
) -> Answer:
    error = {"message": "no", "type": "invalid_request_error", "code": code, "param": param}
    return as_json({"error": error}, status, **headers)
