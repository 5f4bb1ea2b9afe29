"""A model that is loaded when it is first needed, once, whoever needs it at the same time."""

from __future__ import annotations

import asyncio

from openllm.config.model import ModelConfig
from openllm.errors import EngineUnavailableError
from openllm.llm.aside import aside
from openllm.llm.bridge import forked, the_bridge
from openllm.llm.chat_engine import ChatEngine
from openllm.llm.source import ModelSource
from openllm.types import LocalModel


class LazyEngine:
    """Its coroutines run on the bridge's loop only, like the engine's own."""

    def __init__(self, source: ModelSource, config: ModelConfig) -> None:
        self._source = source
        self._config = config
        self._loading: asyncio.Task[ChatEngine] | None = None

    @property
    def loaded(self) -> bool:
        """Whether this process loads or has loaded it."""
        return self._loading is not None and not forked()

    async def get(self) -> ChatEngine:
        """Return the engine, loaded by the first who asks; after a failure the next one tries.

        A model that is not on this machine is downloaded first, in a thread.

        Raises:
            ConfigurationError: The model's files or settings are wrong.
            OpenLLMError: The download failed.
            EngineError: The engine cannot load the model, or was closed meanwhile.
        """
        if self._loading is None:
            self._loading = the_bridge().start(self._load())
            the_bridge().keep(self, self.close)
        loading = self._loading
        try:
            return await asyncio.shield(loading)  # Others may wait when one is cancelled.
        except asyncio.CancelledError:
            if not loading.cancelled():
                raise
            raise EngineUnavailableError(
                f"model {self._source.name!r} was closed while it was being loaded"
            ) from None

    async def close(self) -> None:
        """Free the memory; requests under way fail. Safe to call twice."""
        loading, self._loading = self._loading, None
        the_bridge().drop(self)
        if loading is None:
            return
        loading.cancel()
        await asyncio.wait([loading])
        if not loading.cancelled() and loading.exception() is None:
            await loading.result().close()

    async def _load(self) -> ChatEngine:
        try:
            files = await self._files()
            chat = await asyncio.to_thread(ChatEngine, files, self._config)
            try:
                await chat.start()
            except BaseException:
                await chat.close()
                raise
        except BaseException:
            if self._loading is asyncio.current_task():
                self._loading = None
                the_bridge().drop(self)
            raise
        the_bridge().keep(self, self.close)  # Again: to be closed before what loading started.
        return chat

    async def _files(self) -> LocalModel:
        try:
            return await aside(self._source.get)
        except asyncio.CancelledError:
            self._source.cancel()
            raise


def release(engine: LazyEngine) -> None:
    """Free the memory of a model that nobody holds any more."""
    if engine.loaded:
        the_bridge().post(engine.close)
