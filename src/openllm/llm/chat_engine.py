"""One model as a whole: its files, its chat template and its engine behind one door.

Takes conversations as well as prompts, which the bare engine does not. Knows nothing of HTTP, of
processes or of other models.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from msgspec.structs import replace

from openllm.config.model import ModelConfig
from openllm.engines import create_engine
from openllm.errors import ConfigurationError, UnsupportedError
from openllm.models.gguf import read_header
from openllm.prompts import ChatTemplate, LiteralText
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


class LLM:
    """A model that takes conversations and prompts; it is itself an engine door.

    Nothing is loaded before `start`.
    """

    def __init__(self, model: LocalModel, config: ModelConfig | None = None) -> None:
        self.model = model
        self.config = config or ModelConfig()
        self._engine = create_engine(model, self.config.load)
        self._template: ChatTemplate | None = None
        self._preprompt = ""

    @property
    def capabilities(self) -> Capabilities:
        return replace(self._engine.capabilities, chat=self._template is not None)

    async def start(self) -> None:
        """Load the model; read the pre-prompt once so that its prefix is already cached.

        Raises:
            ConfigurationError: The chat template does not compile.
            EngineStartError: The engine cannot load the model.
        """
        self._template = _chat_template(self.model)
        self._preprompt = preprompt_text(self.config.defaults.prompt)
        await self._engine.start()
        if self._preprompt:
            await self._warm_up()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the deltas of a conversation or a prompt; see `openllm.engines.base.Engine`."""
        prompt = await self._prompt(request)
        ready = replace(request, messages=(), prompt=prompt)
        async with aclosing(self._engine.generate(ready)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        return await self._engine.embed(inputs)

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return await self._engine.tokenize(text, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return await self._engine.detokenize(token_ids)

    async def health(self) -> bool:
        return await self._engine.health()

    async def close(self) -> None:
        await self._engine.close()

    async def _prompt(self, request: GenerateRequest) -> Prompt:
        if request.messages:
            return await self._render(request.messages)
        if not self._preprompt:
            return request.prompt
        if isinstance(request.prompt, str):
            return self._preprompt + request.prompt
        return (self._preprompt, *request.prompt)

    async def _render(self, messages: Sequence[Message]) -> Prompt:
        if self._template is None:
            raise UnsupportedError(
                f"model {self.model.name!r} has no chat template; "
                "use the completions API with a prompt of your own",
                param="messages",
            )
        pieces = self._template.render(with_preprompt(messages, self._preprompt))
        if len(pieces) == 1 and isinstance(pieces[0], str):
            return pieces[0]
        prompt: list[str | int] = []
        for piece in pieces:
            if isinstance(piece, LiteralText):
                prompt += await self._literal_ids(piece.text)
            else:
                prompt.append(piece)
        return tuple(prompt)

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
        messages = (Message(role="user", content="."),) if self._template else ()
        request = GenerateRequest(request_id="warm-up", params=params, messages=messages)
        async with aclosing(self.generate(request)) as chunks:
            async for _ in chunks:
                pass


def _chat_template(model: LocalModel) -> ChatTemplate | None:
    if model.format == "script":
        from openllm.engines.scripted_rules import read_script
        from openllm.engines.scripted_tokens import CONTROL_TOKENS

        source = read_script(model.path).chat_template
        return ChatTemplate(source, control_tokens=CONTROL_TOKENS) if source else None
    header = read_header(model.path)
    if not header.chat_template:
        return None
    return ChatTemplate(
        header.chat_template,
        control_tokens=header.control_tokens,
        bos_token=header.bos_token,
        eos_token=header.eos_token,
        add_bos=header.add_bos,
    )


def preprompt_text(value: str | None) -> str:
    """Return the content of the file that `value` names, or `value` itself if there is none.

    Raises:
        ConfigurationError: There is such a file and it cannot be read as UTF-8 text.
    """
    if not value or not _is_file(value):
        return value or ""
    try:
        return Path(value).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the prompt file {value!r} cannot be read as UTF-8 text: {error}", param="prompt"
        ) from error


def _is_file(value: str) -> bool:
    try:
        return Path(value).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # Too long a name, NUL, or no such home: a text.
        return False


def with_preprompt(messages: Sequence[Message], preprompt: str) -> Sequence[Message]:
    """Put the pre-prompt before the conversation's own system message, or make it one."""
    if not preprompt:
        return messages
    if messages and messages[0].role in ("system", "developer"):
        first = replace(messages[0], content=f"{preprompt}\n\n{messages[0].content}")
        return (first, *messages[1:])
    return (Message(role="system", content=preprompt), *messages)
