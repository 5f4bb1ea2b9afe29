"""Frames on the runner's socket: four bytes of length, big-endian, then one msgpack message.

The worker sends one `Step` per engine step with the new chunks of all its streams; where an engine
reports a step piece by piece, one for what came together. Knows nothing of sockets or processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct, field

from openllm.engines import EngineKind, add_engine, added_engines
from openllm.errors import OpenLLMError, by_name
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
)

MAX_FRAME = 1 << 30
_HEADER = 4


class Launch(Struct, frozen=True):
    """What a worker is told at birth, as one line of JSON on its standard input.

    `preprompt` is its text, as a pipe can only be read by the parent. `engines` are those that the
    parent's program added to the table; reading them adds them here.
    """

    model: LocalModel
    config: dict[str, Any]
    preprompt: str | None = None
    log_level: str = "WARNING"
    engines: dict[str, EngineKind] = field(default_factory=added_engines)

    def __post_init__(self) -> None:
        for name, kind in self.engines.items():
            add_engine(name, *kind)


class Generate(Struct, frozen=True, array_like=True, tag="generate"):
    stream: int
    request: GenerateRequest


class Cancel(Struct, frozen=True, array_like=True, tag="cancel"):
    """Ends the stream or the call of this number; they are counted together."""

    number: int


class Embed(Struct, frozen=True, array_like=True, tag="embed"):
    call: int
    inputs: tuple[Prompt, ...]


class Tokenize(Struct, frozen=True, array_like=True, tag="tokenize"):
    call: int
    text: str
    special: bool


class Detokenize(Struct, frozen=True, array_like=True, tag="detokenize"):
    call: int
    token_ids: tuple[int, ...]


class Health(Struct, frozen=True, array_like=True, tag="health"):
    call: int


class Failure(Struct, frozen=True, array_like=True):
    """An error of the exception tree, by its class name."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        if isinstance(error, OpenLLMError):
            kin = type(error).__mro__  # A class of others' own is told as the nearest of ours.
            name = next(each.__name__ for each in kin if by_name(each.__name__) is each)
            return cls(name, error.message, error.param, error.code, error.retry_after)
        return cls("EngineError", f"the engine failed: {type(error).__name__}: {error}")

    def error(self) -> OpenLLMError:
        return by_name(self.kind)(
            self.message, param=self.param, code=self.code, retry_after=self.retry_after
        )


class Loading(Struct, frozen=True, array_like=True, tag="loading"):
    """What was begun while the model is loaded, in words."""

    phase: str


class Started(Struct, frozen=True, array_like=True, tag="started"):
    capabilities: Capabilities


class NotStarted(Struct, frozen=True, array_like=True, tag="not_started"):
    failure: Failure


class Step(Struct, frozen=True, array_like=True, tag="step"):
    """New chunks as (stream, chunk), then the streams that ended and why, if they failed."""

    chunks: tuple[tuple[int, CompletionChunk], ...]
    ended: tuple[tuple[int, Failure | None], ...] = ()


class Embedded(Struct, frozen=True, array_like=True, tag="embedded"):
    call: int
    output: EmbeddingOutput


class Tokens(Struct, frozen=True, array_like=True, tag="tokens"):
    call: int
    token_ids: list[int]


class Text(Struct, frozen=True, array_like=True, tag="text"):
    call: int
    text: str


class Healthy(Struct, frozen=True, array_like=True, tag="healthy"):
    call: int
    value: bool


class Failed(Struct, frozen=True, array_like=True, tag="failed"):
    call: int
    failure: Failure


ToWorker = Generate | Cancel | Embed | Tokenize | Detokenize | Health
FromWorker = Loading | Started | NotStarted | Step | Embedded | Tokens | Text | Healthy | Failed

_encoder = msgspec.msgpack.Encoder()
to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)
from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)


def encode(message: ToWorker | FromWorker) -> bytes:
    """Return the message as one frame."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_HEADER, "big") + body


class Unframer:
    """Cuts a byte stream back into frame bodies."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the body of every frame completed by `data`.

        Raises:
            ValueError: A frame claims more than `MAX_FRAME` bytes.
        """
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= _HEADER:
            size = int.from_bytes(buffer[start : start + _HEADER], "big")
            if size > MAX_FRAME:
                raise ValueError(f"frame of {size} bytes is over the limit of {MAX_FRAME}")
            end = start + _HEADER + size
            if end > len(buffer):
                break
            yield bytes(buffer[start + _HEADER : end])
            start = end
        if start:
            del buffer[:start]
