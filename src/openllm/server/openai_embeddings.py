"""POST /v1/embeddings: its handler and what it answers."""

from __future__ import annotations

import base64
import math
import sys
from array import array
from collections.abc import Sequence

import orjson

from openllm.errors import InvalidRequestError, UnsupportedError
from openllm.fleet import Fleet, ModelStatus
from openllm.server.exchange import Exchange
from openllm.server.offload import offload
from openllm.server.openai_jobs import prompts_of, wire_names
from openllm.server.openai_schema import EmbeddingRequest

_FLOAT_BYTES = 4


async def embeddings(exchange: Exchange, fleet: Fleet) -> None:
    """POST /v1/embeddings"""
    wire = await exchange.read(EmbeddingRequest)
    model = exchange.resolve(fleet, wire.model)
    check_model(fleet.status(model))
    with wire_names(prompt="input"):
        output = await exchange.run(fleet.embed(model, prompts_of(wire.input)))
    text = wire.encoding_format == "base64"

    def body() -> bytes:
        vectors = shortened(output.vectors, wire.dimensions)
        return _body(model, vectors, output.prompt_tokens, text=text)

    await exchange.answer(await offload(size_of(output.vectors), body))


def size_of(vectors: Sequence[bytes]) -> int:
    """Return how many bytes they take."""
    return sum(map(len, vectors))


def check_model(status: ModelStatus) -> None:
    """Raise `UnsupportedError` if the model cannot embed."""
    capabilities = status.capabilities
    if capabilities is not None and not capabilities.max_embedding_tokens:
        raise UnsupportedError(f"model {status.name!r} has no embeddings", param="model")


def shortened(vectors: Sequence[bytes], dimensions: int | None) -> Sequence[bytes]:
    """Return the vectors cut to `dimensions` numbers each, at unit length again."""
    size = len(vectors[0]) // _FLOAT_BYTES
    if dimensions is None or dimensions == size:
        return vectors
    if dimensions > size:
        raise InvalidRequestError(
            f"dimensions must be at most {size}, the size of the model's embeddings, "
            f"got {dimensions}",
            param="dimensions",
        )
    return [_unit(array("f", vector)[:dimensions]).tobytes() for vector in vectors]


def _unit(values: array[float]) -> array[float]:
    length = math.sqrt(math.fsum(value * value for value in values))
    return array("f", [value / length for value in values]) if length else values


def _body(model: str, vectors: Sequence[bytes], tokens: int, *, text: bool) -> bytes:
    # One vector at a time: a single call for all would not let other threads run meanwhile.
    data = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}'
        % (index, encode_vector(vector, text=text))
        for index, vector in enumerate(vectors)
    )
    usage = orjson.dumps({"prompt_tokens": tokens, "total_tokens": tokens})
    name = orjson.dumps(model)
    return b'{"object":"list","data":[%b],"model":%b,"usage":%b}' % (data, name, usage)


def encode_vector(vector: bytes, *, text: bool) -> bytes:
    """Return a vector as JSON: a list of numbers, or with `text` its bytes in base64."""
    values = array("f", vector)
    if not text:
        return orjson.dumps(values.tolist())
    if sys.byteorder == "big":
        values.byteswap()
    return b'"%b"' % base64.b64encode(values.tobytes())
