"""An engine: a Markov chain over the characters of a text file.

A token is a character and its id the code point, so nothing is lost between text and tokens.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Iterator, Sequence
from pathlib import Path

from openllm.config.model import LoadOptions
from openllm.engines.textstream import TextStream
from openllm.errors import EngineStartError, InvalidRequestError, UnsupportedError
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    FinishReason,
    GenerateRequest,
    LocalModel,
    Prompt,
    SamplingParams,
    Usage,
)

ORDER = 5
CONTEXT = 8192
MAX_CODE_POINT = 0x10FFFF

_HONOURED = {"max_tokens", "temperature", "seed", "n", "stop"}
_NEUTRAL = SamplingParams()


class MarkovEngine:
    """One text, and what follows each of its short passages."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self._path = Path(model.path)
        self._following: dict[str, Counter[str]] = defaultdict(Counter)
        self.capabilities = Capabilities(
            engine="markov",
            engine_version="1.0",
            context_length=min(options.context_length or CONTEXT, CONTEXT),
            max_concurrency=options.max_concurrency or 8,
        )

    async def start(self) -> None:
        """Read the text and count what follows what."""
        try:
            text = self._path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise EngineStartError(f"{self._path} cannot be read: {error}") from error
        if not text:
            raise EngineStartError(f"{self._path} is empty; give it some text")
        for at, char in enumerate(text):
            for length in range(min(ORDER, at) + 1):
                self._following[text[at - length : at]][char] += 1

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the sequences of a request, one after the other."""
        params = request.params
        _refuse_what_is_not_honoured(params)
        prompt = _text(request.prompt)
        room = self.capabilities.context_length - len(prompt)
        if room < 1:
            raise InvalidRequestError(
                f"the prompt has {len(prompt)} tokens and the context"
                f" {self.capabilities.context_length}; shorten it",
                param="prompt",
            )
        limit = min(params.max_tokens or room, room)
        for index in range(params.n):
            seed = None if params.seed is None else params.seed + index
            characters = self._characters(prompt, params.temperature, random.Random(seed))  # noqa: S311
            async for chunk in _chunks(index, characters, limit, params.stop, len(prompt)):
                yield chunk

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        raise UnsupportedError("a Markov chain cannot embed; use another model")

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return [ord(char) for char in text]

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(each) if each <= MAX_CODE_POINT else "\ufffd" for each in token_ids)

    async def health(self) -> bool:
        return True

    async def close(self) -> None:
        self._following.clear()

    def _characters(self, text: str, temperature: float, rng: random.Random) -> Iterator[str]:
        """Yield characters without end, each by the longest passage before it that is known."""
        while True:
            following = self._counts(text)
            if temperature == 0:
                char = max(following, key=following.__getitem__)
            else:
                weights = [count ** (1 / temperature) for count in following.values()]
                char = rng.choices(list(following), weights)[0]
            text = (text + char)[-ORDER:]
            yield char

    def _counts(self, text: str) -> Counter[str]:
        known = (text[len(text) - length :] for length in range(min(ORDER, len(text)), 0, -1))
        passage = next((each for each in known if each in self._following), "")
        return self._following[passage]


async def _chunks(
    index: int, characters: Iterator[str], limit: int, stop: Sequence[str], prompt: int
) -> AsyncGenerator[CompletionChunk, None]:
    """Yield a chunk for each piece of text that is safe to send; the last says why it ended."""
    stream: TextStream[int] = TextStream(stop)
    for made, char in enumerate(characters, 1):
        text, tokens = stream.push(ord(char), char.encode())
        if stream.matched is not None or made == limit:
            reason: FinishReason = "length" if stream.matched is None else "stop"
            rest, left = ("", ()) if reason == "stop" else stream.finish()
            usage = Usage(prompt, made)
            yield CompletionChunk(
                index, text + rest, tokens + left, finish_reason=reason, usage=usage
            )
            return
        if text:
            yield CompletionChunk(index, text, tokens)
        await asyncio.sleep(0)  # Let the other requests make a token too.


def _refuse_what_is_not_honoured(params: SamplingParams) -> None:
    for name in SamplingParams.__struct_fields__:
        if name not in _HONOURED and getattr(params, name) != getattr(_NEUTRAL, name):
            raise UnsupportedError(f"the markov engine cannot honour {name}", param=name)


def _text(prompt: Prompt) -> str:
    pieces = (prompt,) if isinstance(prompt, str) else prompt
    return "".join(piece if isinstance(piece, str) else chr(piece) for piece in pieces)
