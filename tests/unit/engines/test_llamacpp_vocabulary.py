"""A vocabulary of llama.cpp that cannot tokenize every text loads all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openllm.engines.llamacpp_socket import NativeSocket
from openllm.engines.llamacpp_vocabulary import BYTE_PAIRS, SENTENCEPIECE, longest_token
from openllm.errors import EngineError

pytestmark = pytest.mark.anyio


class Characters(NativeSocket):
    """Answers as llama.cpp does with a token for each character of a text that it knows."""

    def __init__(self, known: int) -> None:
        self._known = known

    async def post(self, target: str, body: bytes) -> dict[str, Any]:
        asked = json.loads(body)
        if target == "/detokenize":
            return {"content": "".join(map(chr, asked["tokens"]))}
        if any(ord(char) >= self._known for char in asked["content"]):
            raise EngineError("llama.cpp refused /tokenize with 'HTTP/1.1 500'")
        return {"tokens": list(map(ord, asked["content"]))}


@pytest.mark.parametrize("kind", [SENTENCEPIECE, BYTE_PAIRS])
@pytest.mark.parametrize(("known", "longest"), [(0x110000, 2), (0x80, 0)], ids=["all", "ascii"])
async def test_the_longest_token_is_unknown_where_a_byte_is(
    kind: int, known: int, longest: int
) -> None:
    assert await longest_token(Characters(known), kind, 0x100) == longest
