"""The fleet: every served model by name."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from time import monotonic
from typing import NamedTuple

from msgspec.structs import replace

from openllm.config.model import ModelConfig, RequestDefaults
from openllm.errors import EngineError, ModelNotFoundError, OpenLLMError, UnsupportedError
from openllm.fleet.loaded import Loaded, Settings, loaded_of, settings_of
from openllm.fleet.measures import ModelReport
from openllm.fleet.served import ModelStatus, ServedModel
from openllm.types import CompletionChunk, EmbeddingOutput, GenerateRequest, LocalModel, Prompt

logger = logging.getLogger("openllm.fleet")

MAX_WAITING = 512
DRAIN_POLL = 0.05


class Replaced(NamedTuple):
    """What `Fleet.replace` did, by names of models.

    Attributes:
        defaults: Models that go on with other values for requests that leave them out.
        failures: What went wrong with models that were to be started.
        restored: Those of them that go on as they were before.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    restarted: tuple[str, ...]
    defaults: tuple[str, ...]
    failures: Mapping[str, OpenLLMError]
    restored: tuple[str, ...]


class Fleet:
    """Starts, queues for and restarts models; the first one answers requests that name none."""

    def __init__(
        self,
        models: Sequence[LocalModel],
        configs: Mapping[str, ModelConfig] | None = None,
        *,
        max_waiting: int = MAX_WAITING,
        perplexity: bool = False,
        load_timeout: float | None = None,
    ) -> None:
        """Read the pre-prompts; models are loaded by `start`.

        Args:
            perplexity: Measure it, for which every generation is made with logprobs.
            load_timeout: Most seconds that a model may take to load.

        Raises:
            ConfigurationError: The file of a pre-prompt cannot be read, or two models or adapters
                have one name.
        """
        self._max_waiting = max_waiting
        self._perplexity = perplexity
        self._load_timeout = load_timeout
        self._served: dict[str, ServedModel] = {}
        self._loaded: dict[str, Loaded] = {}
        self._leaving: list[ServedModel] = []
        settings = settings_of(models, configs)
        self._take(settings, loaded_of(settings))

    @property
    def ready(self) -> bool:
        """Whether every model is ready."""
        return all(served.state == "ready" for served in self._served.values())

    def statuses(self) -> tuple[ModelStatus, ...]:
        """Return what is known of each model, its adapters behind it."""
        return tuple(
            served.status(name) for served in self._served.values() for name in served.names
        )

    def reports(self) -> tuple[ModelReport, ...]:
        """Return what each model does now and has done."""
        return tuple(served.report() for served in self._served.values())

    def status(self, name: str) -> ModelStatus:
        return self.find(name).status(name)

    def defaults(self, name: str) -> RequestDefaults:
        """The sampling values of requests to this model that leave them out."""
        return self.find(name).config.defaults

    def resolve(self, name: str | None) -> str:
        """Return the name of the model or adapter that a request means, by default the first.

        Raises:
            ModelNotFoundError: It is not served here.
        """
        if not name:
            return next(iter(self._served))
        self.find(name)
        return name

    async def start(self) -> dict[str, OpenLLMError]:
        """Load all models at once; return what went wrong by model."""
        return await self._start(self._served)

    async def replace(
        self,
        models: Sequence[LocalModel],
        configs: Mapping[str, ModelConfig] | None = None,
        *,
        grace: float = 0.0,
    ) -> Replaced:
        """Serve these models instead; those that stay as they are notice nothing of it.

        A model that is gone, was changed or has failed takes no more requests at once and is closed
        when those that it had are done. Then those that are new or changed are started; one that
        cannot be loaded with what was changed is started as it was before. To be called after
        `start`, and again only when it has returned.

        Args:
            grace: Seconds that requests to a model that is closed get to finish.

        Raises:
            ConfigurationError: As when a fleet is made; nothing was changed.
        """
        settings = settings_of(models, configs)
        wanted = await asyncio.to_thread(loaded_of, settings)
        before, loaded = self._served, self._loaded
        defaults = {name: each.config.defaults for name, each in before.items()}
        working = {name for name, each in before.items() if each.state != "failed"}
        self._take(settings, wanted)
        fresh = {name: each for name, each in self._served.items() if each is not before.get(name)}
        leaving = [each for name, each in before.items() if each is not self._served.get(name)]
        for each in fresh.values():
            each.state = "loading"
        self._leaving += leaving
        await asyncio.gather(*(self._retire(each, grace) for each in leaving))
        failures = await self._start(fresh)
        lost = [name for name in failures if name in working]
        return Replaced(
            added=tuple(name for name in fresh if name not in before),
            removed=tuple(name for name in before if name not in self._served),
            restarted=tuple(name for name in fresh if name in before),
            defaults=tuple(
                name
                for name, each in self._served.items()
                if name not in fresh and each.config.defaults != defaults[name]
            ),
            failures=failures,
            restored=await self._restore({name: (before[name], loaded[name]) for name in lost}),
        )

    async def close(self) -> None:
        """End every runner. Safe to call twice."""
        everyone = (*self._served.values(), *self._leaving)
        await asyncio.gather(*(served.close() for served in everyone))

    def _take(self, settings: Settings, loaded: dict[str, Loaded]) -> None:
        """Let requests find these models and no others; keep what can serve on as it is."""
        served = {}
        for model, config in settings:
            name = model.name
            known = self._served.get(name)
            if known is None or known.state == "failed" or loaded[name] != self._loaded[name]:
                served[name] = self._fresh(model, config, known)
            else:
                known.config = config
                served[name] = known
        self._served, self._loaded = served, loaded

    def _fresh(
        self, model: LocalModel, config: ModelConfig, before: ServedModel | None
    ) -> ServedModel:
        """Return a model that is to be started in the place of the one of its name, if any."""
        served = ServedModel(
            model,
            config,
            self._max_waiting,
            perplexity=self._perplexity,
            load_timeout=self._load_timeout,
        )
        if before is not None:
            served.measures = before.measures  # Totals of a name only grow.
        return served

    async def _restore(self, former: Mapping[str, tuple[ServedModel, Loaded]]) -> tuple[str, ...]:
        """Start models again as they were; returns those of which that went well."""
        again = {
            name: self._fresh(each.model, each.config, each) for name, (each, _) in former.items()
        }
        self._served.update(again)
        self._loaded.update((name, loaded) for name, (_, loaded) in former.items())
        failures = await self._start(again)
        return tuple(name for name in again if name not in failures)

    async def _retire(self, served: ServedModel, grace: float) -> None:
        """Close a model that no request finds any more, once those that it has are done."""
        deadline = monotonic() + grace
        while served.held and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL)
        await served.close()
        self._leaving.remove(served)

    async def _start(self, fresh: Mapping[str, ServedModel]) -> dict[str, OpenLLMError]:
        results = await asyncio.gather(
            *(served.start() for served in fresh.values()), return_exceptions=True
        )
        failures: dict[str, OpenLLMError] = {}
        for name, result in zip(fresh, results, strict=True):
            if isinstance(result, OpenLLMError):
                failures[name] = result
            elif isinstance(result, Exception):
                logger.error("model %r failed to start", name, exc_info=result)
                failures[name] = EngineError(f"starting model {name!r} failed: {result!r}")
            elif isinstance(result, BaseException):
                raise result
        return failures

    def generate(
        self, name: str, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Queue for the model, with the adapter if `name` is one's, and yield deltas; see
        `openllm.engines.base.Engine.generate`.
        """
        served = self.find(name)
        return served.generate(replace(request, adapter=served.adapter(name)))

    async def embed(self, name: str, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed inputs; raises `UnsupportedError` for the name of an adapter."""
        served = self.find(name)
        if served.adapter(name):
            raise UnsupportedError(
                f"{name!r} is an adapter, and embeddings are its model's; ask for"
                f" {served.model.name!r}",
                param="model",
            )
        async with served.lend() as runner:
            output = await runner.embed(inputs)
        served.measures.prompt_tokens += output.prompt_tokens
        return output

    async def tokenize(self, name: str, text: str, *, special: bool) -> list[int]:
        async with self.find(name).lend() as runner:
            return await runner.tokenize(text, special=special)

    async def detokenize(self, name: str, token_ids: Sequence[int]) -> str:
        return await self.find(name).detokenize(token_ids)

    def pids(self) -> dict[str, int | None]:
        """The process of each model's runner."""
        return {name: served.pid for name, served in self._served.items()}

    def find(self, name: str) -> ServedModel:
        """Return the model that is served by this name, its own or that of an adapter, now.

        Raises:
            ModelNotFoundError: There is none.
        """
        if served := self._served.get(name):
            return served
        for served in self._served.values():
            if name in served.names:
                return served
        names = [each for served in self._served.values() for each in served.names]
        known = ", ".join(names)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ModelNotFoundError(
            f"model {shown!r} is not served here{hint} Served models: {known}", param="model"
        )
