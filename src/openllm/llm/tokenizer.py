"""Text to token ids and back, for engines whose tokenizer is no object of this process."""

from __future__ import annotations

from collections.abc import Sequence

from openllm.llm.bridge import the_bridge
from openllm.llm.loading import LazyEngine


class EngineTokenizer:
    """The tokenizer inside an engine; blocks this thread while the engine answers."""

    def __init__(self, engine: LazyEngine) -> None:
        self._engine = engine

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the ids of `text`; `special` reads control tokens in it. None are added."""
        return the_bridge().sync_call(self._encode(text, special))

    def decode(self, token_ids: Sequence[int]) -> str:
        """Return the text of the ids, of control tokens too; broken UTF-8 becomes U+FFFD."""
        return the_bridge().sync_call(self._decode(token_ids))

    async def _encode(self, text: str, special: bool) -> list[int]:
        return await (await self._engine.get()).tokenize(text, special=special)

    async def _decode(self, token_ids: Sequence[int]) -> str:
        return await (await self._engine.get()).detokenize(token_ids)
