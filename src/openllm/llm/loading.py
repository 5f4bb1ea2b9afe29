"""A model that is loaded when it is first needed, once, whoever needs it at the same time."""

from __future__ import annotations

import asyncio
import os

from openllm.config.model import ModelConfig
from openllm.errors import EngineUnavailableError
from openllm.llm.bridge import Bridge, the_bridge
from openllm.llm.chat_engine import ChatEngine
from openllm.llm.source import ModelSource
from openllm.types import LocalModel


class LazyEngine:
    """Its coroutines run on the bridge's loop only, like the engine's own."""

    def __init__(self, source: ModelSource, config: ModelConfig) -> None:
        self._source = source
        self._config = config
        self._loading: asyncio.Task[ChatEngine] | None = None
        self._process = 0

    @property
    def loaded(self) -> bool:
        """Whether this process loads or has loaded it."""
        return self._loading is not None and self._process == os.getpid()

    def bridge(self) -> Bridge:
        """Return the way to the engine.

        Raises:
            EngineUnavailableError: It was loaded before this process was forked off.
        """
        if self._loading is not None and not self.loaded:
            raise EngineUnavailableError(
                f"model {self._source.name!r} was loaded in process {self._process}, and an engine"
                " cannot be used by its forks; build the LLM in the process that uses it"
            )
        return the_bridge()

    async def get(self) -> ChatEngine:
        """Return the engine, loaded by the first who asks; after a failure the next one tries.

        A model that is not on this machine is downloaded first, in a thread.

        Raises:
            ConfigurationError: The model's files or settings are wrong.
            OpenLLMError: The download failed.
            EngineError: The engine cannot load the model.
        """
        if self._loading is None:
            self._process = os.getpid()
            self._loading = asyncio.create_task(self._load())
            the_bridge().keep(self, self.close)
        return await asyncio.shield(self._loading)  # Others may wait when one is cancelled.

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
            chat = ChatEngine(await self._files(), self._config)
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
            return await asyncio.to_thread(self._source.get)
        except asyncio.CancelledError:
            self._source.cancel()
            raise
