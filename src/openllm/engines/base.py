"""The engine door: all that the rest of the house asks of whatever makes tokens.

An engine knows nothing of HTTP, of other models, or of chat templates. To cancel a generation,
close its stream. Anything beyond this door is a capability that an engine declares.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    Prompt,
)


class Engine(Protocol):
    """One loaded model. Every method may be called from one event loop only, concurrently."""

    @property
    def capabilities(self) -> Capabilities:
        """What the started engine offers; undefined before `start` returned."""

    async def start(self) -> None:
        """Load the model.

        Raises:
            EngineStartError: It cannot be loaded; the message says why.
        """

    def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield deltas of all `n` sequences as they are made, in order within a sequence.

        Closing the iterator stops the work and frees its memory, before the first token too.

        Raises:
            InvalidRequestError: The request cannot be honoured. Nearly always on the first step;
                later only where an engine finds that it can no longer keep to a schema.
            EngineError: The engine failed; no chunk with a finish_reason was sent.
        """

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed each input; raises `UnsupportedError` if the model cannot."""

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Encode text without adding begin or end tokens; `special` reads control tokens in it."""

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        """Decode ids; bytes that are no UTF-8 become U+FFFD."""

    async def health(self) -> bool:
        """Whether the engine still makes progress."""

    async def close(self) -> None:
        """Stop all work and release the memory; safe to call twice."""
