"""Reads a streamed reply while it arrives and notes when its text came."""

from __future__ import annotations

from typing import Any

import orjson

from openllm.bench.settings import RequestRecord


class SSESplitter:
    """Cuts bytes into the data of server-sent events; lines may end in LF or CRLF.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the data of every event that ends in `piece`."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        events = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events


class ReplyTimer:
    """The times and counts of one reply; `start` is when its request was sent."""

    def __init__(self, start: float) -> None:
        self._start = start
        self._splitter = SSESplitter()
        self._gaps: list[float] = []
        self._first: float | None = None
        self._last_text = start
        self._last = start
        self._chunks = 0
        self._usage: dict[str, Any] = {}
        self._complete = False
        self._error: tuple[str, str] | None = None

    def feed(self, piece: bytes, now: float) -> None:
        """Take body bytes that arrived at `now`."""
        for data in self._splitter.feed(piece):
            if data == b"[DONE]":
                self._complete = True
            else:
                self._event(data, now)

    def fail(self, kind: str, detail: str, now: float) -> None:
        """Note why there is no complete reply; the first reason stays."""
        if self._error is None:
            self._error = (kind, detail)
            self._last = now

    def record(self, origin: float, lag: float = 0.0) -> RequestRecord:
        """What came, with `origin` as the moment at which the run began."""
        error = self._error or self._verdict()
        counted = self._usage.get("completion_tokens")
        return RequestRecord(
            start=self._start - origin,
            lag=lag,
            latency=self._last - self._start,
            ttft=None if self._first is None else self._first - self._start,
            gaps=tuple(self._gaps),
            prompt_tokens=self._usage.get("prompt_tokens"),
            output_tokens=self._chunks if counted is None else counted,
            counted=counted is None,
            error=error[0] if error else None,
            detail=error[1] if error else "",
        )

    def _verdict(self) -> tuple[str, str] | None:
        if not self._complete:
            return ("incomplete", "the stream ended before the reply did")
        if self._first is None:
            return ("empty", "the reply holds no text")
        return None

    def _event(self, data: bytes, now: float) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            self.fail("protocol", "an event of the stream is not JSON", now)
            return
        if not isinstance(event, dict):
            self.fail("protocol", "an event of the stream is no JSON object", now)
        elif event.get("error"):
            self.fail("stream_error", error_message(event), now)
        else:
            self._chunk(event, now)

    def _chunk(self, event: dict[str, Any], now: float) -> None:
        usage = event.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
        choices = event.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return
        self._last = now
        if choices[0].get("finish_reason"):
            self._complete = True
        if has_text(choices[0]):
            self._text(now)

    def _text(self, now: float) -> None:
        self._chunks += 1
        if self._first is None:
            self._first = now
        else:
            self._gaps.append(now - self._last_text)
        self._last_text = now


def has_text(choice: dict[str, Any]) -> bool:
    """Whether a choice of a streamed chunk carries text, reasoning text and tool calls included."""
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    if not isinstance(delta, dict):
        return False
    return bool(
        delta.get("content")
        or delta.get("reasoning_content")
        or delta.get("reasoning")
        or delta.get("tool_calls")
    )


def error_message(body: object) -> str:
    """The message of an OpenAI error object, on one line of at most 200 characters."""
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        error = error.get("message") or error
    return " ".join(str(error).split())[:200]
