"""One model as a whole: its files, its chat template and its engine behind one door.

Takes conversations as well as prompts, which the bare engine does not. Knows nothing of HTTP, of
processes or of other models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from msgspec.structs import replace

from openllm.config.model import ModelConfig
from openllm.engines import create_engine
from openllm.engines.base import Engine
from openllm.engines.prompt_size import aside, check_inputs, check_prompt, is_long
from openllm.errors import ConfigurationError, InvalidRequestError, UnsupportedError
from openllm.llm.choice import choose_engine
from openllm.llm.preprompt import preprompt_text, with_preprompt
from openllm.llm.templates import TextRules, text_rules
from openllm.models.store import Hold, find_tag, hold, quick_check, touch
from openllm.prompts import LiteralText
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Message,
    Prompt,
    SamplingParams,
)

logger = logging.getLogger("openllm.llm")


class RenderedPrompt(NamedTuple):
    """A request's prompt as text, for people, and as the engine takes it."""

    text: str
    prompt: Prompt


class ChatEngine:
    """A model that takes conversations and prompts; it is itself an engine door.

    Nothing is loaded before `start`.
    """

    def __init__(
        self, model: LocalModel, config: ModelConfig | None = None, preprompt: str | None = None
    ) -> None:
        """Take the text of the pre-prompt where it has been read already."""
        self.model = model
        self.config = config or ModelConfig()
        choice = choose_engine(model, self.config.load)
        logger.info("%s runs on %s: %s", model.name, choice.name, choice.reason)
        self._engine = create_engine(choice.name, model, self.config.load)
        self._rules = TextRules(None)
        self._affixes: tuple[list[int], list[int]] = [], []
        self._read_preprompt = preprompt
        self._preprompt = ""
        self._holds: list[Hold] = []

    @property
    def engine(self) -> Engine:
        """The bare engine, which takes prompts only."""
        return self._engine

    @property
    def eos(self) -> str:
        """Text of the token that ends a text, "" if the model's files do not say."""
        return self._rules.eos

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._engine.capabilities, chat=self._rules.template is not None)

    async def start(self) -> None:
        """Load the model; read the pre-prompt once so that its prefix is already cached.

        Raises:
            ConfigurationError: The chat template does not compile, or the pre-prompt is too long.
            EngineStartError: The engine cannot load the model.
        """
        await asyncio.to_thread(self._read_files)
        await self._engine.start()
        for adapter in self.model.adapters:
            logger.info("%s has the adapter %s", self.model.name, adapter.label)
        self._affixes = await self._read_affixes()
        if self._preprompt:
            await self._warm_up()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the deltas of a conversation or a prompt; see `openllm.engines.base.Engine`."""
        rendered = await self.render(request, must_fit=True)
        ready = replace(request, messages=(), prompt=rendered.prompt)
        async with aclosing(self._engine.generate(ready)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        check_inputs(inputs, self._engine.capabilities, self.model.name)
        return await self._engine.embed(inputs)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return await self._engine.tokenize(text, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._engine.detokenize(token_ids)

    async def health(self) -> bool:
        return await self._engine.health()

    async def close(self) -> None:
        await self._engine.close()
        while self._holds:
            self._holds.pop().close()

    async def render(self, request: GenerateRequest, *, must_fit: bool) -> RenderedPrompt:
        """Return the prompt of a request: messages pass through the model's chat template, and a
        prompt stays as it is; the pre-prompt comes before both.

        Args:
            request: What was asked for.
            must_fit: Refuse what is too long for the context, where its text shows that already;
                else it is to be cut.

        Raises:
            InvalidRequestError: The template refuses the messages, or the model has none; or it
                has no such adapter.
            ContextLengthError: It was to fit, and does not.
        """
        self._check_adapter(request.adapter)
        if not request.messages:
            prompt = self._after_preprompt(request.prompt)
            return RenderedPrompt(self._text(prompt, must_fit), prompt)
        pieces = await self._render(request.messages)
        shown = tuple(piece.text if isinstance(piece, LiteralText) else piece for piece in pieces)
        return RenderedPrompt(self._text(shown, must_fit), await self._conversation(pieces))

    async def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the tokens that the engine reads, with those that its tokenizer adds by itself:
        BOS before a text that has none, and EOS behind a text that an encoder reads."""
        pieces = (prompt,) if isinstance(prompt, str) else prompt
        if not pieces:
            return []
        ids: list[int] = []
        for piece in pieces:
            ids += [piece] if isinstance(piece, int) else await self._encode(piece)
        before, behind = self._affixes
        if isinstance(pieces[0], str) and ids[: len(before)] != before:
            ids = before + ids
        if isinstance(pieces[-1], str) and behind and ids[-len(behind) :] != behind:
            ids += behind
        return ids

    async def token_text(self, token_id: int) -> str:
        """Return the text that stands for one token, a control token too; "" if there is none."""
        text = await self._engine.detokenize([token_id])
        tokenizer = getattr(self._engine, "tokenizer", None)
        if text or tokenizer is None:
            return text
        return str(tokenizer.convert_ids_to_tokens(token_id) or "")

    def _check_adapter(self, name: str) -> None:
        known = [adapter.name for adapter in self.model.adapters if adapter.name]
        if name and name not in known:
            there = f"it has {', '.join(known)}" if known else "it has none; load it with lora"
            raise InvalidRequestError(
                f"model {self.model.name!r} has no adapter {name!r}: {there}", param="adapter"
            )

    def _read_files(self) -> None:
        self._keep_files()
        self._rules = text_rules(self.model)
        if self._read_preprompt is None:
            self._preprompt = preprompt_text(self.config.defaults.prompt)
        else:
            self._preprompt = self._read_preprompt

    def _keep_files(self) -> None:
        """Keep what is stored, which must be whole, from being removed while it is loaded."""
        if self._holds:
            return
        for model in filter(None, (self.model, self.model.tokenizer)):
            if model.tag and (stored := find_tag(model.tag)):
                self._holds.append(hold(quick_check(stored)))
                touch(stored)

    def _text(self, prompt: Prompt, must_fit: bool) -> str:
        """Return the text in a prompt; raises `ContextLengthError` as `render` does."""
        if must_fit:
            check_prompt(prompt, self._engine.capabilities, self.model.name)
        pieces = (prompt,) if isinstance(prompt, str) else prompt
        return "".join([piece for piece in pieces if isinstance(piece, str)])

    async def _conversation(self, pieces: Sequence[str | LiteralText]) -> Prompt:
        """Return a rendered conversation as the engine takes it."""
        prompt: list[str | int] = []
        for piece in pieces:
            if isinstance(piece, LiteralText):
                prompt += await self._literal_ids(piece.text)
            elif prompt:
                prompt.append(piece)
            else:
                prompt += await self._opening(piece)
        only = prompt[0] if len(prompt) == 1 else None
        return only if isinstance(only, str) else tuple(prompt)

    async def _opening(self, text: str) -> Sequence[str | int]:
        """Return what a conversation begins with, as ids where the engine would add BOS to the
        text though the template writes none, or has written it and nothing else."""
        bos = self._rules.bos
        return [text] if text.startswith(bos) and text != bos else await self._encode(text)

    async def _encode(self, text: str) -> list[int]:
        return await self._engine.tokenize(text, special=True)

    async def _read_affixes(self) -> tuple[list[int], list[int]]:
        """Return the ids that the tokenizer puts before and behind a prompt."""
        tokenizer = getattr(self._engine, "tokenizer", None)
        if tokenizer is None:
            return await self._encode(self._rules.bos), []
        from openllm.engines.hf_encode import affixes

        before, behind = affixes(tokenizer)
        return before, behind if self._rules.closed else []

    def _after_preprompt(self, prompt: Prompt) -> Prompt:
        if not self._preprompt:
            return prompt
        if isinstance(prompt, str):
            return self._preprompt + prompt
        return (self._preprompt, *prompt)

    async def _render(self, messages: Sequence[Message]) -> Sequence[str | LiteralText]:
        if self._rules.template is None:
            raise UnsupportedError(
                f"model {self.model.name!r} has no chat template; "
                "use the completions API with a prompt of your own",
                param="messages",
            )
        render = partial(self._rules.template.render, with_preprompt(messages, self._preprompt))
        return await aside(is_long(*(message.content for message in messages)), render)

    async def _literal_ids(self, text: str) -> list[int]:
        ids = await self._engine.tokenize(text, special=False)
        if len(ids) > 1 or len(text) < 2:
            return ids
        # Some tokenizers find added tokens in plain text too; its halves are no such token.
        half = len(text) // 2
        first = await self._engine.tokenize(text[:half], special=False)
        return first + await self._engine.tokenize(text[half:], special=False)

    async def _warm_up(self) -> None:
        params = SamplingParams(max_tokens=1, temperature=0.0)
        messages = (Message(role="user", content="."),) if self._rules.template else ()
        request = GenerateRequest(request_id="warm-up", params=params, messages=messages)
        try:
            async with aclosing(self.generate(request)) as chunks:
                async for _ in chunks:
                    pass
        except InvalidRequestError as error:
            raise ConfigurationError(
                f"with the text of --prompt {error.message}", param="prompt"
            ) from None
