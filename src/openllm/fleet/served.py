"""One served model: its runner, its queue, and what happens when the runner dies."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from openllm.config.model import ModelConfig
from openllm.errors import EngineUnavailableError, OpenLLMError
from openllm.fleet.measures import GenerationMeasure, ModelMeasures, ModelReport
from openllm.gate import Gate
from openllm.llm.model_files import keep
from openllm.runner.client import Runner
from openllm.types import Capabilities, CompletionChunk, GenerateRequest, LocalModel

logger = logging.getLogger("openllm.fleet")

ModelState = Literal["stopped", "loading", "ready", "restarting", "failed"]

MAX_CRASHES = 3
CRASH_WINDOW = 60.0
FIRST_BACKOFF = 0.25


class ModelStatus(Struct, frozen=True, kw_only=True):
    """A served model as others see it.

    `created` is the file's modification time in epoch seconds. `parent` is the model that an
    adapter is for, "" for a model of its own. `fingerprint` changes with the
    engine's build and the model's file. `capabilities` are known once the model was ready.
    """

    name: str
    state: ModelState
    created: int
    parent: str = ""
    reason: str | None = None
    capabilities: Capabilities | None = None
    fingerprint: str = ""


class ServedModel:
    """Keeps a runner of one model alive: restarts it with backoff, gives up after three crashes
    within a minute, and queues requests for it."""

    def __init__(
        self,
        model: LocalModel,
        config: ModelConfig,
        max_waiting: int,
        *,
        perplexity: bool = False,
        load_timeout: float | None = None,
    ) -> None:
        """`perplexity`: measure it, for which every generation is made with logprobs.

        `load_timeout`: Most seconds that loading may take.
        """
        self.model = model
        self.config = config
        self.measures = ModelMeasures(perplexity=perplexity)
        self.state: ModelState = "stopped"
        self.reason: str | None = None
        self._capabilities: Capabilities | None = None
        self._fingerprint = ""
        self._gate = Gate(max_waiting)
        self._load_timeout = load_timeout
        self._runner: Runner | None = None
        self._crashes: deque[float] = deque(maxlen=MAX_CRASHES)
        self._keeper: asyncio.Task[None] | None = None
        self._holds = 0
        self._kept = ExitStack()

    @property
    def pid(self) -> int | None:
        return self._runner.pid if self._runner else None

    @property
    def waiting(self) -> int:
        return self._gate.waiting

    @property
    def running(self) -> int:
        return self._gate.running

    @property
    def held(self) -> bool:
        """Whether a request has something to do with it, or will have."""
        return bool(self._holds or self.running or self.waiting)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Let a request that needs the model more than once have the same one each time."""
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    @property
    def names(self) -> tuple[str, ...]:
        """What requests may call it: its own name, then those of its adapters."""
        own = self.model.name
        return (own, *(each.name for each in self.model.adapters if each.name))

    def adapter(self, name: str) -> str:
        """Return the adapter that a request means by one of `names`, "" for none in particular."""
        return "" if name == self.model.name else name

    def status(self, name: str = "") -> ModelStatus:
        """Return what is known of it, by its own name or by that of an adapter."""
        adapter = self.adapter(name or self.model.name)
        return ModelStatus(
            name=adapter or self.model.name,
            parent=self.model.name if adapter else "",
            state=self.state,
            created=_modified(self.model.path),
            reason=self.reason,
            capabilities=self._capabilities,
            fingerprint=self._fingerprint,
        )

    def report(self) -> ModelReport:
        return ModelReport(
            name=self.model.name,
            state=self.state,
            running=self.running,
            waiting=self.waiting,
            measures=self.measures,
        )

    async def start(self) -> None:
        """Load the model; from then on a dead runner is replaced until `close`, for which the
        model stays in the store.

        Raises:
            EngineStartError: It could not be loaded; the model's state is "failed".
            ModelFileError: It is being removed from the store; the same.
        """
        self.state = "loading"
        try:
            await asyncio.to_thread(self._kept.enter_context, keep(self.model))
            await self._launch()
        except Exception as error:
            self._kept.close()
            self._fail(_told(error))
            raise
        self._keeper = asyncio.create_task(self._keep_alive(), name=f"keep {self.model.name}")

    async def close(self) -> None:
        """End the runner; whoever waits is refused. Safe to call twice."""
        self.state, self.reason = "stopped", None
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._gate.refuse(self._unavailable())
        if self._runner is not None:
            await self._runner.close()
        self._kept.close()

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        with GenerationMeasure(self.measures, request.params.n) as measure:
            async with (
                self.lend(request.params.n) as runner,
                aclosing(self._chunks(runner, request)) as chunks,
            ):
                measure.admit()
                async for chunk in chunks:
                    measure.tokens += len(chunk.token_ids)
                    if chunk.finish_reason is not None or chunk.index in measure.silent:
                        measure.mark(chunk)
                    yield chunk

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        async with self.lend() as runner:
            return await runner.detokenize(token_ids)

    @asynccontextmanager
    async def lend(self, units: int = 1) -> AsyncIterator[Runner]:
        """Lend the runner for `units` sequences, in turn.

        Raises:
            EngineUnavailableError: The model is not ready, or came to fail while this waited.
            OverloadedError: The queue is full.
        """
        if self.state != "ready":
            raise self._unavailable()
        async with self._gate.passage(units):
            if self._runner is None:
                raise self._unavailable()
            yield self._runner

    def _chunks(
        self, runner: Runner, request: GenerateRequest
    ) -> AsyncGenerator[CompletionChunk, None]:
        perplexity = self.measures.perplexity
        if perplexity is None:
            return runner.generate(request)
        return perplexity.follow(runner.generate, request)

    async def _launch(self) -> None:
        runner = Runner(self.model, self.config)
        self._runner = runner
        try:
            await runner.start(self._load_timeout)
        except BaseException:
            await runner.close()
            raise
        self._capabilities = runner.capabilities
        self._fingerprint = _fingerprint(self.model, runner.capabilities)
        self.state, self.reason = "ready", None
        runner.lost.add_done_callback(self._lost)
        self._gate.open(runner.capabilities.max_concurrency)

    def _lost(self, _: asyncio.Future[None]) -> None:
        # Runs before the streams learn of it, so that their places are not given to a dead runner:
        # those who wait keep their turn and run on the next process.
        if self.state == "ready":
            self._gate.close()
            self.state, self.reason = "restarting", "its process ended"

    async def _keep_alive(self) -> None:
        while self._runner is not None and self.state in ("ready", "restarting"):
            self._crashed("its process " + await asyncio.shield(self._runner.died))
            await self._runner.close()
            await self._relaunch()

    async def _relaunch(self) -> None:
        while self.state == "restarting":
            await asyncio.sleep(FIRST_BACKOFF * 2 ** (len(self._crashes) - 1))
            try:
                await self._launch()
                self.measures.restarts += 1
            except Exception as error:
                self._crashed(f"it could not be loaded again: {_told(error)}")

    def _crashed(self, what: str) -> None:
        now = time.monotonic()
        while self._crashes and now - self._crashes[0] > CRASH_WINDOW:
            self._crashes.popleft()
        self._crashes.append(now)
        if len(self._crashes) < MAX_CRASHES:
            logger.error("model %s: %s; restarting it", self.model.name, what)
            self.reason = what
        else:
            self._fail(f"{MAX_CRASHES} crashes within {CRASH_WINDOW:.0f} s; the last time {what}")

    def _fail(self, reason: str) -> None:
        logger.error("model %s failed: %s", self.model.name, reason)
        self.state, self.reason = "failed", reason
        self._gate.refuse(self._unavailable())

    def _unavailable(self) -> EngineUnavailableError:
        reason = f": {self.reason}" if self.reason else ""
        if self.state == "failed":
            what = f"has failed{reason}; it stays so until it is started again"
        else:
            what = f"is {self.state}{reason}"
        soon = self.state in ("loading", "restarting")
        return EngineUnavailableError(
            f"model {self.model.name!r} {what}", retry_after=1.0 if soon else 30.0
        )


def _told(error: Exception) -> str:
    return error.message if isinstance(error, OpenLLMError) else repr(error)


def _modified(path: str) -> int:
    try:
        return int(Path(path).stat().st_mtime)
    except OSError:
        return 0


def _fingerprint(model: LocalModel, capabilities: Capabilities) -> str:
    """Name engine, build and file; 12 hexadecimal digits."""
    file = Path(model.path)
    size = file.stat().st_size if file.is_file() else 0
    text = f"{capabilities.engine}\0{capabilities.engine_version}\0{size}\0{_modified(model.path)}"
    return "fp_" + hashlib.sha256(text.encode()).hexdigest()[:12]
