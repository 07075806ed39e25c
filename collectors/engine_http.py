"""Asks an inference engine over HTTP: whether it answers, and its own metrics under common names.

Source: GET /health, /v1/models, /api/tags, /metrics on a local address. A check is bounded in time and size and follows
no redirect. Numbers are the engine's own word (trust: host). An answer that asks for a key counts as an answer.
"""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

PATIENCE = 1.0  # seconds for one request
LARGEST = 1 << 20  # bytes of an answer that are read
HEALTH: dict[str, str] = {"ollama": "/api/tags"}  # every other kind: /health
SAMPLE = re.compile(
    r"""^([a-zA-Z_:][\w:]*)(?:\{(?:[^"}]|"(?:[^"\\]|\\.)*")*\})? ([-+\d.eE]+|NaN)""",
    re.MULTILINE,
)

# an engine's own name -> ours, label "type"; same names of several models in one engine add up
NAMES: dict[str, tuple[str, str]] = {
    "llamacpp:requests_processing": ("gen_ai.server.requests.running", ""),
    "llamacpp:requests_deferred": ("gen_ai.server.requests.waiting", ""),
    "llamacpp:prompt_tokens_total": ("gen_ai.server.tokens", "input"),
    "llamacpp:tokens_predicted_total": ("gen_ai.server.tokens", "output"),
    "llamacpp:prompt_seconds_total": ("gen_ai.server.token_time", "input"),
    "llamacpp:tokens_predicted_seconds_total": ("gen_ai.server.token_time", "output"),
    "vllm:num_requests_running": ("gen_ai.server.requests.running", ""),
    "vllm:num_requests_waiting": ("gen_ai.server.requests.waiting", ""),
    "vllm:prompt_tokens_total": ("gen_ai.server.tokens", "input"),
    "vllm:generation_tokens_total": ("gen_ai.server.tokens", "output"),
    "vllm:request_prefill_time_seconds_sum": ("gen_ai.server.token_time", "input"),
    "vllm:request_decode_time_seconds_sum": ("gen_ai.server.token_time", "output"),
    "sglang:num_running_reqs": ("gen_ai.server.requests.running", ""),
    "sglang:num_queue_reqs": ("gen_ai.server.requests.waiting", ""),
    "sglang:prompt_tokens_total": ("gen_ai.server.tokens", "input"),
    "sglang:generation_tokens_total": ("gen_ai.server.tokens", "output"),
    "tgi_batch_current_size": ("gen_ai.server.requests.running", ""),
    "tgi_queue_size": ("gen_ai.server.requests.waiting", ""),
}
Connect = Callable[[socket.AddressFamily], socket.socket]


@dataclass(frozen=True, slots=True)
class Health:
    """What a check brought: `kind` where the answer itself tells it, `seconds` the check took."""

    answers: bool
    healthy: bool
    detail: str = ""
    kind: str = ""
    seconds: float = 0.0
    metrics: dict[tuple[str, str], float] = field(default_factory=dict)


def check(host: str, port: int, kind: str, *, metrics: bool = False, connect: Connect | None = None) -> Health:
    """Ask one engine; raises nothing. `connect` makes the socket, in another network namespace for instance."""
    began = monotonic()
    make = connect or socket.socket
    try:
        status, body = _get(host, port, HEALTH.get(kind, "/health"), make)
        if status == 404:  # not every engine has the path; that it lists models says as much
            status, body = _get(host, port, "/v1/models", make)
    except http.client.HTTPException:
        # it talks or hangs up, so it lives: TLS, or a port that is not for HTTP
        return Health(True, True, "does not speak plain HTTP", seconds=monotonic() - began)
    except (OSError, ValueError) as error:
        reason = "does not answer within " + f"{PATIENCE:g} s" if isinstance(error, TimeoutError) else f"{error}"
        return Health(False, False, reason or type(error).__name__, seconds=monotonic() - began)
    seconds = monotonic() - began
    healthy = status < 500
    numbers: dict[tuple[str, str], float] = {}
    told = kind
    if healthy and metrics:
        try:
            code, text = _get(host, port, "/metrics", make)
        except (OSError, http.client.HTTPException, ValueError):
            code, text = 0, b""
        if code == 200:
            numbers = parse_metrics(text.decode("utf-8", "replace"))
            told = told or kind_of(text.decode("utf-8", "replace"))
    if not told and b'"owned_by"' in body:
        told = "openai-compatible"
    return Health(True, healthy, "" if healthy else f"HTTP status {status}", told, seconds, numbers)


def _get(host: str, port: int, path: str, connect: Connect) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with connect(family) as link:
        link.settimeout(PATIENCE)
        link.connect((host, port))
        connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
        connection.sock = link
        connection.request("GET", path, headers={"User-Agent": "wardround", "Connection": "close"})
        answer = connection.getresponse()
        return answer.status, answer.read(LARGEST)


def parse_metrics(text: str) -> dict[tuple[str, str], float]:
    """Return ``{(our metric, type): value}`` from a Prometheus text; `type` is empty where the metric has none."""
    found: dict[tuple[str, str], float] = {}
    for name, value in SAMPLE.findall(text):
        ours = NAMES.get(name) or NAMES.get(f"{name}_total")
        if ours is None:
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        if number == number:
            found[ours] = found.get(ours, 0.0) + number
    return found


def kind_of(text: str) -> str:
    """Return which engine wrote a Prometheus text, empty if none that is known."""
    for prefix, kind in (("llamacpp:", "llama.cpp"), ("vllm:", "vllm"), ("sglang:", "sglang"), ("tgi_", "tgi")):
        if re.search(rf"^{prefix}", text, re.MULTILINE):
            return kind
    return ""
