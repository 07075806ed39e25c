"""One OpenAI-compatible endpoint that answers by JSON schema, with everything about it bounded.

Time, tries, tokens and bytes have an end whatever the other side does. Redirects are not followed and no key from the
environment is sent, so that evidence and key reach the configured address only. Importing this module loads the
client (about 2 s of CPU): `agents.model_planner` does so at its first question.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import structlog
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from wardround.errors import UpstreamError
from wardround.settings import ModelSettings

log = structlog.get_logger(__name__)

RETRIES = 2
MOST_BYTES = 256 * 1024
MOST_TOKENS = 900
LONGEST_PAUSE = 5.0  # s


class ModelError(UpstreamError):
    """The model did not give a usable answer. `again` where another try may help, after `pause` seconds."""

    def __init__(self, what: str, *, again: bool = False, pause: float = 0.5) -> None:
        super().__init__(what)
        self.again, self.pause = again, pause


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: any JSON object, not yet trusted, and what all tries cost together."""

    value: dict[str, Any]
    calls: int
    input_tokens: int
    output_tokens: int


class _Bounded(httpx.SyncByteStream):
    """A response body that ends, with an error, at a size or at a moment."""

    def __init__(self, inner: httpx.SyncByteStream, deadline: float) -> None:
        self._inner, self._deadline = inner, deadline

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._inner:
            size += len(chunk)
            if size > MOST_BYTES:
                raise ModelError(f"its answer is larger than {MOST_BYTES // 1024} KiB")
            if time.monotonic() > self._deadline:
                raise ModelError("its answer did not end in time")
            yield chunk

    def close(self) -> None:
        self._inner.close()


class Endpoint:
    """The configured model. `spent_tokens` counts what it has used in this process."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._deadline = 0.0
        self.calls = 0
        self.input_tokens = 0
        self.output_tokens = 0
        self._http = httpx.Client(
            timeout=settings.timeout,
            follow_redirects=False,
            trust_env=not _is_loopback(settings.base_url),
            headers={"Accept-Encoding": "identity"},
            event_hooks={"request": [_without_environment], "response": [self._bound]},
        )

    def _bound(self, response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise ModelError("its answer is compressed, which was not asked for")
        if isinstance(response.stream, httpx.SyncByteStream):
            response.stream = _Bounded(response.stream, self._deadline)

    def close(self) -> None:
        self._http.close()

    def ask(self, system: str, question: str, schema: dict[str, Any], *, seconds: float, tokens: int) -> Answer:
        """Ask for one JSON object. `seconds` and `tokens` are what the round has left for all tries together.

        :raises ModelError: no usable answer within the tries, the time and the tokens
        """
        end = time.monotonic() + seconds
        before = (self.calls, self.input_tokens, self.output_tokens)
        failure = ModelError("no time is left for it")
        for attempt in range(RETRIES + 1):
            left = end - time.monotonic()
            spent = self.input_tokens + self.output_tokens - before[1] - before[2]
            room = tokens - spent - (len(system) + len(question)) // 3
            if left <= 0:
                break
            if room < 64:
                raise ModelError("the budget of tokens is spent")
            try:
                value = self._once(system, question, schema, min(left, self._settings.timeout), min(room, MOST_TOKENS))
                calls, put, got = (now - then for now, then in zip(self._counts(), before, strict=True))
                return Answer(value, calls, put, got)
            except ModelError as error:
                failure = error
                log.info("model_failed", attempt=attempt + 1, why=error.what)
                if not error.again:
                    break
            time.sleep(max(min(failure.pause, LONGEST_PAUSE, end - time.monotonic()), 0.0))
        raise failure

    def _counts(self) -> tuple[int, int, int]:
        return self.calls, self.input_tokens, self.output_tokens

    def _once(self, system: str, question: str, schema: dict[str, Any], seconds: float, tokens: int) -> dict[str, Any]:
        self._deadline = time.monotonic() + seconds
        self.calls += 1
        chat = self._chat(seconds, tokens).with_structured_output(schema, method="json_schema", include_raw=True)
        try:
            answer = chat.invoke([SystemMessage(system), HumanMessage(question)])
        except ModelError:
            raise
        except Exception as error:  # noqa: BLE001 - tool boundary: a server may answer anything, and the round goes on
            raise _told(error, seconds) from None
        raw = answer.get("raw") if isinstance(answer, dict) else None
        if isinstance(raw, AIMessage) and raw.usage_metadata is not None:
            self.input_tokens += raw.usage_metadata["input_tokens"]
            self.output_tokens += raw.usage_metadata["output_tokens"]
        if isinstance(raw, AIMessage) and raw.response_metadata.get("finish_reason") == "length":
            raise ModelError(f"its answer did not end within {tokens} tokens", again=True, pause=0.0)
        value = answer.get("parsed") if isinstance(answer, dict) else None
        if not isinstance(value, dict):
            raise ModelError("its answer is not the JSON that was asked for", again=True, pause=0.0)
        return value

    def _chat(self, seconds: float, tokens: int) -> ChatOpenAI:
        settings = self._settings
        return ChatOpenAI(
            model=settings.model,
            base_url=settings.base_url,
            api_key=settings.api_key or SecretStr("none"),
            timeout=seconds,
            max_retries=0,
            temperature=0.0,
            max_completion_tokens=tokens,
            use_responses_api=False,
            http_client=self._http,
            http_socket_options=(),
        )


def _without_environment(request: httpx.Request) -> None:
    """Take out what the client adds of another account in the environment."""
    for name in ("openai-organization", "openai-project"):
        request.headers.pop(name, None)


def _is_loopback(url: str) -> bool:
    """Whether an address is this machine itself: then no proxy of the environment stands between."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _told(error: Exception, seconds: float) -> ModelError:
    """Say what went wrong in words; text of the server is left out, it is not ours."""
    cause = error
    while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
        cause = cause.__cause__
        if isinstance(cause, ModelError):
            return cause
    if isinstance(error, openai.APITimeoutError):
        return ModelError(f"it did not answer within {seconds:.0f} s", again=True)
    if isinstance(error, openai.APIConnectionError):
        return ModelError(f"it cannot be reached ({type(cause).__name__})", again=True)
    if isinstance(error, openai.RateLimitError):
        return ModelError("it refused for too many requests (HTTP 429)", again=True, pause=_retry_after(error))
    if isinstance(error, openai.APIStatusError):
        return ModelError(f"it answered HTTP {error.status_code}", again=error.status_code >= 500)
    return ModelError(f"its answer could not be read ({type(error).__name__})", again=True, pause=0.0)


def _retry_after(error: openai.APIStatusError) -> float:
    try:
        return max(float(error.response.headers.get("retry-after", "1")), 0.0)
    except ValueError:
        return 1.0
