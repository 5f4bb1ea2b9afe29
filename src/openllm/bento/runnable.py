"""What a runner of a model offers: document S0's chat, complete and embed, and what `LLM` has.

    class Polite(LLMRunnable, model_name="llama"):       # every runner of llama is one of these
        @classmethod
        def process_cli_args(cls, **args):
            return super().process_cli_args(**({"prompt": "Be polite."} | args))

Knows nothing of processes: `openllm.bento.runner_handles` carries calls to it.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

from bentoml._internal.runner.runnable import RunnableMethod
from bentoml.legacy import Runnable

from openllm.config.fields import field_name
from openllm.errors import InvalidRequestError
from openllm.llm.llm import LLM
from openllm.llm.output import GenerationOutput
from openllm.models import families
from openllm.models.ref import ModelRef
from openllm.server.native_schema import (
    ChatRequest,
    CompleteRequest,
    Configuration,
    EmbedRequest,
    SamplingRequest,
)
from openllm.server.openai_jobs import to_message
from openllm.server.validation import WireModel, validate
from openllm.types import Message

Body = TypeVar("Body", bound=WireModel)
Data = str | Mapping[str, Any] | Sequence[Any] | None

_bound: dict[str, type[LLMRunnable]] = {}
"""The classes that users bound to a model, by its name."""


class LLMRunnable(Runnable, ABC):
    """A loaded model's methods; abstract, as a subclass says which model it is for.

    `chat`, `complete` and `embed` take what the routes of the same names take: the text alone or
    the whole body as a dictionary, and the body's fields by name as well.
    """

    SUPPORTED_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "cpu")
    SUPPORTS_CPU_MULTI_THREADING = True

    model_name: ClassVar[str] = ""

    def __init_subclass__(cls, model_name: str | None = None, **options: Any) -> None:
        """Bind the class to `model_name`: `get_runner` of that model takes it from now on."""
        super().__init_subclass__(**options)
        if model_name is not None:
            cls.model_name = model_name
            _bound[_key(model_name)] = cls
        # BentoML notes methods in one dictionary that all classes of a family tree would share.
        for each in cls.__mro__:
            if issubclass(each, LLMRunnable):
                each.bentoml_runnable_methods__ = _methods(each)

    def __init__(self, llm: LLM | None = None, **options: Any) -> None:
        """Load the model.

        Args:
            llm: The model; that of the class's name, with `options`, if left out.

        Raises:
            TypeError: There is no LLM, and the class is bound to no model.
            RuntimeError: It cannot be loaded; the cause says why.
        """
        if llm is None:
            if not self.model_name:
                raise TypeError(
                    f"{type(self).__name__} is abstract: derive a class from it with"
                    " model_name='...', or give it an openllm.LLM"
                )
            llm = LLM(self.model_name, **self.process_cli_args(**options))
        self._llm = llm
        try:
            _ = llm.model
        except Exception as error:
            raise RuntimeError(f"Failed to load the model correctly: {error}") from error

    @classmethod
    def process_cli_args(cls, **args: Any) -> dict[str, Any]:
        """Return options under the names of settings; what is None is left out.

        Names may be written as on the command line, "top-k", or as `freq_penalty`. Values are
        checked where the model is made; a class may give its model others here.
        """
        processed: dict[str, Any] = {}
        for name, value in args.items():
            own = field_name(name)
            if processed.get(own, value) != value:
                raise TypeError(f"two values were given for {own}; give one")
            if value is not None:
                processed[own] = value
        return processed

    @Runnable.method(batchable=False)
    def chat(self, /, data: Data = None, **fields: Any) -> dict[str, Any]:
        """Answer a prompt, or a list of messages: {"message": ..., "configuration": {...}}."""
        wire = _body(ChatRequest, data, fields)
        configuration = self._configuration(wire)
        output = self._llm.sync_generate(
            messages=_conversation(wire), sampling_params=configuration.params()
        )
        message = _echo(wire) + output.outputs[0].text
        return {"message": message, "configuration": configuration.model_dump()}

    @Runnable.method(batchable=False)
    async def chat_stream(self, /, data: Data = None, **fields: Any) -> AsyncGenerator[str, None]:
        """Yield what `chat` answers piece by piece; joined, the pieces are its message."""
        wire = _body(ChatRequest, data, fields)
        stream = self._llm.generate_iterator(
            messages=_conversation(wire), sampling_params=self._configuration(wire).params()
        )
        async with aclosing(_pieces(_echo(wire), stream)) as pieces:
            async for piece in pieces:
                yield piece

    @Runnable.method(batchable=False)
    def complete(self, /, data: Data = None, **fields: Any) -> dict[str, Any]:
        """Continue a text: {"choices": [...], "configuration": {...}}, `n` choices."""
        wire = _body(CompleteRequest, data, fields)
        configuration = self._configuration(wire)
        output = self._llm.sync_generate(wire.prompt, sampling_params=configuration.params())
        before = wire.prompt if wire.echo else ""
        choices = [before + each.text for each in output.outputs]
        return {"choices": choices, "configuration": configuration.model_dump()}

    @Runnable.method(batchable=False)
    async def complete_stream(
        self, /, data: Data = None, **fields: Any
    ) -> AsyncGenerator[str, None]:
        """Yield what `complete` answers, one choice, piece by piece."""
        wire = _body(CompleteRequest, data, fields)
        configuration = self._configuration(wire)
        if configuration.n > 1:
            raise InvalidRequestError(
                f"n is {configuration.n}, and a stream has one choice; leave it out", param="n"
            )
        stream = self._llm.generate_iterator(wire.prompt, sampling_params=configuration.params())
        async with aclosing(_pieces(wire.prompt if wire.echo else "", stream)) as pieces:
            async for piece in pieces:
                yield piece

    @Runnable.method(batchable=False)
    def embed(self, /, data: Data = None, **fields: Any) -> list[list[float]]:
        """Return a vector of unit length for each text."""
        wire = _body(EmbedRequest, data, fields)
        self._check_model(wire.model)
        return self._llm.sync_embed(wire.input)

    @Runnable.method(batchable=False)
    def generate(self, *args: Any, **options: Any) -> GenerationOutput:
        """Return the whole answer; see `LLM.generate`."""
        return self._llm.sync_generate(*args, **options)

    @Runnable.method(batchable=False)
    async def generate_iterator(
        self, *args: Any, **options: Any
    ) -> AsyncGenerator[GenerationOutput, None]:
        """Yield the answer so far; see `LLM.generate_iterator`."""
        async with aclosing(self._llm.generate_iterator(*args, **options)) as outputs:
            async for output in outputs:
                yield output

    vllm_generate_iterator = generate_iterator  # Its older name with vLLM.

    def _configuration(self, wire: SamplingRequest) -> Configuration:
        self._check_model(wire.model)
        return wire.effective(self._llm.name, self._llm.config.defaults)

    def _check_model(self, asked: str | None) -> None:
        if asked not in (None, self._llm.name):
            raise InvalidRequestError(
                f"model is {asked!r}, and this runner has {self._llm.name!r}; leave it out",
                param="model",
            )


def runnable_class(ref: ModelRef) -> type[LLMRunnable]:
    """Return the class bound to the model: by its own name, or else by that of its family."""
    variant = families.variant(ref.source)
    names = (ref.served_name, ref.source, variant.family.name if variant else "")
    return next((_bound[_key(name)] for name in names if _key(name) in _bound), LLMRunnable)


def _key(name: str) -> str:
    return name.lower().replace("-", "_")


def _methods(cls: type[LLMRunnable]) -> dict[str, RunnableMethod[Any, Any, Any]]:
    """Return the remote methods that a class has, its own before those of its bases."""
    found = {name: value for base in reversed(cls.__mro__) for name, value in vars(base).items()}
    return {name: value for name, value in found.items() if isinstance(value, RunnableMethod)}


def _body(model: type[Body], data: Data, fields: Mapping[str, Any]) -> Body:
    """Return the arguments of a call as the body of the route of its name.

    Raises:
        InvalidRequestError: They do not fit; the message names what is wrong.
    """
    body = dict(data) if isinstance(data, Mapping) else {}
    if data is not None and not isinstance(data, Mapping):
        body[_main_field(model, data)] = data
    for name, value in fields.items():
        own = field_name(name)
        if own in body:
            raise InvalidRequestError(f"{own} is given twice; give it once", param=own)
        body[own] = value
    return validate(model, body)


def _main_field(model: type[WireModel], data: Data) -> str:
    """Return the field that an argument without a name is for."""
    if model is EmbedRequest:
        return "input"
    return "messages" if model is ChatRequest and isinstance(data, list) else "prompt"


def _conversation(wire: ChatRequest) -> list[Message]:
    wire.check()
    if wire.prompt is not None:
        return [Message(role="user", content=wire.prompt)]
    return list(map(to_message, wire.messages or ()))


def _echo(wire: ChatRequest) -> str:
    if not wire.echo or wire.prompt is None:
        return ""
    return wire.prompt if wire.prompt[-1].isspace() else wire.prompt + " "


async def _pieces(
    before: str, stream: AsyncGenerator[GenerationOutput, None]
) -> AsyncGenerator[str, None]:
    """Yield what each output has more than the one before it."""
    if before:
        yield before
    sent = 0
    async with aclosing(stream) as outputs:
        async for output in outputs:
            text = output.outputs[0].text
            if len(text) > sent:
                yield text[sent:]
                sent = len(text)
