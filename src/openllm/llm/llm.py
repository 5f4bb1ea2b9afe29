"""`openllm.LLM`: one class over every engine, for scripts, notebooks, services and threads.

    llm = openllm.LLM("demo")
    output = await llm.generate("Once upon a time", max_new_tokens=64)     # or sync_generate
    async for output in llm.generate_iterator("Once upon a time"):         # or sync_...
        print(output.outputs[0].text)                                      # all the text so far

The engine works on an event loop of its own (`openllm.llm.bridge`), so one LLM serves any number of
event loops and threads at once; requests that run at the same time share the engine's batch.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, closing
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from openllm.llm import arguments, generation
from openllm.llm.bridge import the_bridge
from openllm.llm.loading import LazyEngine, release
from openllm.llm.output import GenerationOutput
from openllm.llm.pretrained import own_options
from openllm.llm.settings import model_settings
from openllm.llm.source import ModelSource
from openllm.llm.tokenizer import EngineTokenizer
from openllm.models.ref import parse_ref, shown_source
from openllm.models.tags import given_tag

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from openllm.config.download import DownloadOptions
    from openllm.llm.arguments import GenerateOptions
    from openllm.llm.chat_engine import ChatEngine


class LLM:
    """A language model, downloaded and loaded when it is first used.

    Attributes:
        model_id: The model as it was named to us.
        name: Its name in messages and logs.
        config: How it is loaded, and what a call gets that says nothing.
    """

    def __init__(
        self,
        model_id: str | os.PathLike[str],
        backend: str | None = None,
        *,
        model_name: str | None = None,
        model_version: str | None = None,
        model_tag: object | None = None,
        download: DownloadOptions | None = None,
        **options: Any,
    ) -> None:
        """Look for the model on this machine; nothing is downloaded or loaded.

        Args:
            model_id: "demo", "qwen3:0.6b", "org/name@revision", a path, or a URL of a GGUF file.
            backend: llamacpp, vllm or torch ("pt"); by the model's format if left out.
            model_name: Name in BentoML's model store, instead of the derived one.
            model_version: Version there, instead of the commit or a hash of the files.
            model_tag: Both at once, as a text or a `bentoml.Tag`.
            download: How to download, in the place of all options that say so.
            options: Fields of `LoadOptions` (context_length, max_concurrency, dtype, lora, ...), of
                `RequestDefaults` (temperature, max_new_tokens, stop, prompt, ...) and of
                `DownloadOptions` (offline, revision, ...). What is left out comes from
                OPEN_LLM_<MODEL>_<FIELD>, then OPEN_LLM_<FIELD>, then what the family brings.

        Raises:
            TypeError: There is no such option, or an argument has a wrong type.
            ConfigurationError: The model, the backend or a value is wrong.
            EngineNotInstalledError: The engine's package is missing; says what to install.
        """
        arguments.check_types(model_id, download)
        self.model_id = os.fspath(model_id)
        ref = parse_ref(self.model_id)
        if backend is not None:
            options["backend"] = backend
        settings = model_settings(ref, options, os.environ, download=download)
        self.config = settings.config
        self._defaults = self.config.defaults
        tag = given_tag(model_tag, model_name, model_version)
        self._source = ModelSource(
            ref, self.config.load, settings.download, tag, given=settings.given
        )
        self.name = self._source.name
        self._engine = LazyEngine(self._source, self.config)
        self._runner: Any = None
        weakref.finalize(self, release, self._engine).atexit = False  # The bridge sees to that.

    @classmethod
    def from_pretrained(cls, model_id: str | os.PathLike[str], **options: Any) -> Self:
        """Return an LLM; options may also have the names of transformers' `from_pretrained`."""
        return cls(model_id, **own_options(options))

    def __repr__(self) -> str:
        return f"openllm.LLM({shown_source(self.model_id)!r}, backend={self.backend!r})"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            f"{self!r} cannot be pickled or copied, as an engine cannot; hand over"
            f" {shown_source(self.model_id)!r} and build the LLM where it is used"
        )

    @property
    def backend(self) -> str | None:
        """The engine that runs the model; None while only a download could tell."""
        return self._source.engine

    @property
    def model(self) -> Any:
        """What runs the model; the first access loads it, blocking this thread.

        With the torch engine it is the transformers model; with others, which hold their weights
        in native code or other processes, it is the engine itself.
        """
        engine = self._loaded().engine
        return getattr(engine, "model", engine)

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; the first access loads the model, blocking this thread.

        That of transformers where the engine has one here, else what has `encode` and `decode`.
        """
        return getattr(self._loaded().engine, "tokenizer", None) or EngineTokenizer(self._engine)

    async def generate(
        self,
        prompt: str | None = None,
        request_id: str | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationOutput:
        """Return the whole answer, the last output of `generate_iterator`.

        A prompt goes to the model as it is written; `messages=[...]` in its place go through the
        model's chat template. If `max_new_tokens` is given and a prompt leaves too little room for
        them, its last (context - max_new_tokens - 1) tokens are kept, with a warning in the log.

        Args:
            prompt: The text to continue.
            request_id: Kept in the output; random if left out.
            stop: Texts that end the answer and are not part of it.
            stop_token_ids: Tokens that do, beside the model's own; so does text that reads as one.
            options: Any field of `openllm.SamplingParams` (max_tokens also as max_new_tokens), or
                all of them as `sampling_params`; `messages`; `adapter`, the name of one of `lora`;
                `context_length`, at most the one loaded; `stream_interval`, tokens from one output
                to the next. What is left out comes from the model's defaults, then is neutral.

        Raises:
            TypeError: There is no such option, or a value has a wrong type.
            InvalidRequestError: A value is wrong or cannot be honoured; it is a ValueError too.
            EngineError: The model cannot be loaded, or failed.
            RuntimeError: Nothing was produced.
        """
        call = arguments.call(prompt, request_id, stop, stop_token_ids, options, self._defaults)
        return await the_bridge().call(generation.answer(self._engine, call))

    async def generate_iterator(
        self,
        prompt: str | None = None,
        request_id: str | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> AsyncGenerator[GenerationOutput, None]:
        """Yield the answer so far, every `stream_interval` tokens and at its end.

        Arguments and errors are those of `generate`, the errors raised at the first step. Closing
        the iterator ends the work and frees its memory.
        """
        call = arguments.call(prompt, request_id, stop, stop_token_ids, options, self._defaults)
        stream = the_bridge().stream(generation.outputs(self._engine, call))
        async with aclosing(stream) as outputs:
            async for output in outputs:
                yield output

    async_generate = generate
    async_generate_iterator = generate_iterator

    def sync_generate(
        self,
        prompt: str | None = None,
        request_id: str | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> GenerationOutput:
        """Return what `generate` does; blocks this thread."""
        call = arguments.call(prompt, request_id, stop, stop_token_ids, options, self._defaults)
        return the_bridge().sync_call(generation.answer(self._engine, call))

    def sync_generate_iterator(
        self,
        prompt: str | None = None,
        request_id: str | None = None,
        stop: str | list[str] | None = None,
        stop_token_ids: list[int] | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Generator[GenerationOutput, None, None]:
        """Yield what `generate_iterator` does; blocks this thread between the outputs."""
        call = arguments.call(prompt, request_id, stop, stop_token_ids, options, self._defaults)
        stream = the_bridge().sync_stream(generation.outputs(self._engine, call))
        with closing(stream) as outputs:
            yield from outputs

    async def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return one vector of unit length for each text; for a single text, a list of one.

        Raises:
            TypeError: They are no texts.
            UnsupportedError: This model or engine cannot embed.
        """
        return await the_bridge().call(generation.vectors(self._engine, arguments.texts(texts)))

    def sync_embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return what `embed` does; blocks this thread."""
        return the_bridge().sync_call(generation.vectors(self._engine, arguments.texts(texts)))

    async def load(self) -> None:
        """Load the model now, if it is not loaded yet."""
        await the_bridge().call(self._engine.get())

    async def close(self) -> None:
        """Free the memory; requests under way fail. The next use loads the model again."""
        await the_bridge().call(self._engine.close())

    def sync_close(self) -> None:
        """Do what `close` does; blocks this thread."""
        the_bridge().sync_call(self._engine.close())

    async def __aenter__(self) -> Self:
        await self.load()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.shield(self.close())

    def __enter__(self) -> Self:
        self._loaded()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.sync_close()

    @property
    def tag(self) -> str:
        """The model's "name:version" in BentoML's store.

        Derived, it is `<framework>-<repo>--<model_id>:<commit>`; of a local model
        `<framework>-<name>:<hash>`. The first access may download or read all its files.
        """
        return self._source.tag()

    @property
    def bentomodel(self) -> Any:
        """The `bentoml.Model` of `tag`, downloaded first if it has a source; else `NotFound`."""
        return _from_bento_room("stored_model")(self._source.stored())

    @property
    def runner(self) -> Any:
        """A `bentoml.legacy.Runner` for `bentoml.legacy.Service(runners=[...])`, in this process:
        it and `llm.generate` share one loaded model."""
        if self._runner is None:
            self._runner = _from_bento_room("llm_runner")(self)
        return self._runner

    def _loaded(self) -> ChatEngine:
        return the_bridge().sync_call(self._engine.get())


def _from_bento_room(name: str) -> Any:
    """Return what that room has by this name; it may not be imported here."""
    return getattr(import_module("openllm.bento.runners"), name)
