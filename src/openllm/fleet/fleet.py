"""The fleet: every served model by name."""

from __future__ import annotations

import asyncio
import difflib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from openllm.config.model import LoadOptions, ModelConfig, RequestDefaults
from openllm.errors import EngineError, ModelNotFoundError, OpenLLMError
from openllm.fleet.measures import ModelReport
from openllm.fleet.served import ModelStatus, ServedModel
from openllm.llm.preprompt import preprompt_text
from openllm.models.tags import content_files
from openllm.types import CompletionChunk, EmbeddingOutput, GenerateRequest, LocalModel, Prompt

logger = logging.getLogger("openllm.fleet")

Settings = Sequence[tuple[LocalModel, ModelConfig]]

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
    ) -> None:
        """Read the pre-prompts; models are loaded by `start`.

        Args:
            perplexity: Measure it, for which every generation is made with logprobs.

        Raises:
            ConfigurationError: The file of a pre-prompt cannot be read.
        """
        self._max_waiting = max_waiting
        self._perplexity = perplexity
        self._served: dict[str, ServedModel] = {}
        self._loaded: dict[str, _Loaded] = {}
        self._leaving: list[ServedModel] = []
        settings = _settings(models, configs)
        self._take(settings, _loaded(settings))

    @property
    def ready(self) -> bool:
        """Whether every model is ready."""
        return all(served.state == "ready" for served in self._served.values())

    def statuses(self) -> tuple[ModelStatus, ...]:
        return tuple(served.status() for served in self._served.values())

    def reports(self) -> tuple[ModelReport, ...]:
        """Return what each model does now and has done."""
        return tuple(served.report() for served in self._served.values())

    def status(self, name: str) -> ModelStatus:
        return self.find(name).status()

    def defaults(self, name: str) -> RequestDefaults:
        """The sampling values of requests to this model that leave them out."""
        return self.find(name).config.defaults

    def resolve(self, name: str | None) -> str:
        """Return the served name that a request means; without a name the first model.

        Raises:
            ModelNotFoundError: It is not served here.
        """
        if not name:
            return next(iter(self._served))
        return self.find(name).model.name

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
            ConfigurationError: The file of a pre-prompt cannot be read; nothing was changed.
        """
        settings = _settings(models, configs)
        wanted = await asyncio.to_thread(_loaded, settings)
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

    def _take(self, settings: Settings, loaded: dict[str, _Loaded]) -> None:
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
        served = ServedModel(model, config, self._max_waiting, perplexity=self._perplexity)
        if before is not None:
            served.measures = before.measures  # Totals of a name only grow.
        return served

    async def _restore(self, former: Mapping[str, tuple[ServedModel, _Loaded]]) -> tuple[str, ...]:
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
        """Queue for the model and yield deltas; see `openllm.engines.base.Engine.generate`."""
        return self.find(name).generate(request)

    async def embed(self, name: str, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        served = self.find(name)
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
        """Return the model that is served by this name now; raises `ModelNotFoundError`."""
        if served := self._served.get(name):
            return served
        known = ", ".join(self._served)
        close = difflib.get_close_matches(name, self._served, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise ModelNotFoundError(
            f"model {shown!r} is not served here{hint} Served models: {known}", param="model"
        )


class _Loaded(NamedTuple):
    """What a runner has read: if any of it is another, the model needs a new one.

    Attributes:
        files: Size and time of the model's files, as they can be overwritten under their names.
    """

    model: LocalModel
    load: LoadOptions
    preprompt: str
    files: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, model: LocalModel, config: ModelConfig) -> _Loaded:
        parts = (model, model.tokenizer) if model.tokenizer else (model,)
        # What the store has under a tag stays.
        files = tuple(each for part in parts if not part.tag for each in _files(part.path))
        return cls(model, config.load, preprompt_text(config.defaults.prompt), files)


def _settings(models: Sequence[LocalModel], configs: Mapping[str, ModelConfig] | None) -> Settings:
    return [(model, (configs or {}).get(model.name, ModelConfig())) for model in models]


def _loaded(settings: Settings) -> dict[str, _Loaded]:
    return {model.name: _Loaded.of(model, config) for model, config in settings}


def _files(path: str) -> tuple[tuple[str, int, int], ...]:
    try:
        states = [(str(each), each.stat()) for each in content_files(Path(path))]
    except OSError:  # Whoever loads it says what is wrong with it.
        return ()
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)
