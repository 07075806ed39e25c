"""An OpenAI-compatible endpoint on loopback that answers from a script: real HTTP, exact answers.

A step of the script is a JSON value to answer with, or a function that gets the request handler and misbehaves.
The last step is repeated.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Step = Any | Callable[[BaseHTTPRequestHandler], None]


class ModelServer:
    """`url` to configure; `requests` are the bodies that came in, `headers` what they carried."""

    def __init__(self, script: list[Step]) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.script = script
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                server.requests.append(json.loads(body))
                server.headers.append(dict(self.headers))
                step = server.script[min(len(server.requests), len(server.script)) - 1]
                if callable(step):
                    step(self)
                else:
                    answer(self, step)

            def log_message(self, *_: object) -> None:
                return

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    @property
    def prompts(self) -> str:
        """All that was ever sent, as text."""
        return json.dumps(self.requests)

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def serving(*script: Step) -> Iterator[ModelServer]:
    server = ModelServer(list(script))
    try:
        yield server
    finally:
        server.close()


def answer(handler: BaseHTTPRequestHandler, value: Any) -> None:
    """Answer as a model would that follows the protocol; a string is sent as it is."""
    content = value if isinstance(value, str) else json.dumps(value)
    reply(handler, 200, completion(content))


def completion(content: str) -> bytes:
    return json.dumps(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [
                {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}},
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    ).encode()


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def status(code: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: reply(handler, code, b'{"error": {"message": "no"}}', **headers)


def silence(seconds: float) -> Callable[[BaseHTTPRequestHandler], None]:
    """Accept the request and say nothing."""
    return lambda handler: time.sleep(seconds)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    """Send one byte at a time, for ever: no single read times out."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    try:
        for _ in range(600):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
    except OSError:
        return


def huge(handler: BaseHTTPRequestHandler) -> None:
    """Answer with 1 MB."""
    try:
        answer(handler, {"ranking": ["c1"], "explanation": [], "confidence": 0.5, "padding": "x" * 2**20})
    except OSError:
        return


def cut(handler: BaseHTTPRequestHandler) -> None:
    """Promise a whole answer and hang up in the middle of it."""
    body = completion("{}")
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[:40])
    handler.wfile.flush()
    handler.connection.close()
