"""From the keyword arguments of `openllm.LLM` and its methods to checked settings and requests."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import Struct
from msgspec.structs import asdict
from pydantic import BaseModel

from openllm.config.fields import ALIASES
from openllm.config.model import RequestDefaults
from openllm.errors import InvalidRequestError
from openllm.llm.output import new_request_id
from openllm.types import GenerateRequest, Message, SamplingParams

GREEDY_TEMPERATURE = 1e-5
GREEDY_TOP_P = 1e-8

_DEFAULTED = frozenset(RequestDefaults.model_fields) & frozenset(SamplingParams.__struct_fields__)


class GenerateOptions(TypedDict, total=False):
    """What `generate` and `generate_iterator` take by name, beside the arguments of document S1.

    `openllm.SamplingParams` says what each sampling field means; None leaves it to the defaults.
    """

    messages: Sequence[Message | Mapping[str, str]]
    adapter: str | None
    sampling_params: SamplingParams
    stream_interval: int
    context_length: int
    max_model_len: int
    stop_sequence: str | list[str] | None
    max_new_tokens: int | None
    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    n: int | None
    seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    freq_penalty: float | None
    repetition_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logprobs: int | None
    json_schema: Mapping[str, Any] | None
    grammar: str | None
    ignore_eos: bool | None


class Call(Struct, frozen=True, kw_only=True):
    """One call of `generate` or `generate_iterator`, checked as far as no model is needed.

    Attributes:
        stream_interval: Tokens from one output to the next.
        context_length: Tokens of prompt and output; None for the model's own.
    """

    request: GenerateRequest
    stream_interval: int = 1
    context_length: int | None = None


def check_types(model_id: object, download: object) -> None:
    """Raise `TypeError` for what is no model's name or path, or no `DownloadOptions`."""
    if not isinstance(model_id, (str, os.PathLike)):
        raise TypeError(f"model_id is {model_id!r}; give a model's name, a path or a URL as text")
    if download is not None and not isinstance(download, BaseModel):  # It may hold a token.
        raise TypeError(
            f"download is a {type(download).__name__}; give openllm.config.download.DownloadOptions"
        )


def check_names(function: str, given: Iterable[str], known: Sequence[str]) -> None:
    """Raise `TypeError`, with a suggestion, for a name that is not known."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise TypeError(f"{function}() has no argument {name!r}{hint}")


def call(
    prompt: str | None,
    request_id: str | None,
    stop: str | list[str] | None,
    stop_token_ids: list[int] | None,
    options: Mapping[str, Any],
    defaults: RequestDefaults,
) -> Call:
    """Check the arguments of a call.

    Raises:
        TypeError: There is no such argument, or one has a wrong type.
        InvalidRequestError: A value is wrong; the message names it.
    """
    check_names("generate", options, tuple(GenerateOptions.__annotations__))
    sampling = renamed("generate", {"stop": stop, **options})
    stop = sampling.pop("stop_sequence", None)
    messages = sampling.pop("messages", None)
    interval = sampling.pop("stream_interval", None)
    context = sampling.pop("context_length", None)
    adapter = sampling.pop("adapter", "")
    params = _params(sampling, stop, stop_token_ids, defaults)
    if request_id is not None and not isinstance(request_id, str):
        raise TypeError(f"request_id is {request_id!r}; give a string or None")
    if not isinstance(adapter, str):
        raise TypeError(f"adapter is {adapter!r}; give the name of one, as in lora={{name: path}}")
    request = GenerateRequest(
        request_id=new_request_id() if request_id is None else request_id,
        params=params,
        adapter=adapter,
        **_prompt(prompt, messages),
    )
    return Call(
        request=request,
        stream_interval=1 if interval is None else _positive("stream_interval", interval),
        context_length=None if context is None else _positive("context_length", context),
    )


def renamed(function: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are set, under one name each."""
    renamed: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    for name, value in options.items():
        if value is None:
            continue
        own = ALIASES.get(name, name)
        if own in renamed and renamed[own] != value:
            raise TypeError(
                f"{function}() got two values for {own}; give {spelled[own]!r} or {name!r}"
            )
        renamed[own], spelled[own] = value, name
    return renamed


def _params(
    given: dict[str, Any],
    stop: str | list[str] | None,
    stop_token_ids: list[int] | None,
    defaults: RequestDefaults,
) -> SamplingParams:
    """Merge what was given, the only place where that is done.

    What a call leaves out comes from `sampling_params`, whole, or else from the model's defaults.
    """
    base = given.pop("sampling_params", None)
    if base is None:
        fields = {name: getattr(defaults, name) for name in _DEFAULTED}
        fields["stop"] = defaults.stop_sequence
    elif isinstance(base, SamplingParams):
        fields = asdict(base)
    else:
        raise TypeError(f"sampling_params is {base!r}; give an openllm.SamplingParams")
    fields |= {name: _plain(value) for name, value in given.items()}
    if stop is not None:
        fields["stop"] = _stop_strings(stop)
    if stop_token_ids is not None:
        fields["stop_token_ids"] = _each_plain(stop_token_ids)
    if fields["max_tokens"] is not None:
        _positive("max_new_tokens", fields["max_tokens"])
    return _greedy(_checked({name: value for name, value in fields.items() if value is not None}))


def _plain(value: Any) -> Any:
    """Return a number of numpy or torch as Python's own."""
    return value.item() if hasattr(value, "item") else value


def _each_plain(values: Any) -> Any:
    if isinstance(values, Iterable) and not isinstance(values, str):
        return tuple(map(_plain, values))
    return values  # Which is told to be wrong when all fields are checked.


def _checked(fields: dict[str, Any]) -> SamplingParams:
    try:
        return msgspec.convert(fields, SamplingParams)
    except msgspec.ValidationError as error:
        expected, _, where = str(error).partition(" - at `")
        name = where.partition("$.")[2].rstrip("`").partition("[")[0]
        raise InvalidRequestError(
            f"{name}={fields.get(name)!r} has the wrong type: {expected[:1].lower()}{expected[1:]}",
            param=name,
        ) from None


def _greedy(params: SamplingParams) -> SamplingParams:
    """Make near-zero values of temperature and top_p what they mean."""
    if params.temperature < 0 or params.top_p < 0:  # The engine's to refuse.
        return params
    if params.temperature <= GREEDY_TEMPERATURE or params.top_p < GREEDY_TOP_P:
        return msgspec.structs.replace(params, temperature=0.0, top_p=1.0)
    return params


def _stop_strings(stop: Any) -> tuple[str, ...]:
    """Return the stop strings that are not empty."""
    texts = [stop] if isinstance(stop, str) else stop
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidRequestError(
            f"Invalid stop field type. It is {stop!r}; give a string, a list of strings or None.",
            param="stop",
        )
    return tuple(filter(None, texts))


def texts(given: Any) -> list[str]:
    """Return the texts to embed, of which one alone may be given as it is.

    Raises:
        TypeError: They are no texts.
    """
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, Sequence) or not all(isinstance(text, str) for text in listed):
        raise TypeError(f"texts is {given!r}; give a string or a list of strings")
    return list(listed)


def _prompt(prompt: Any, messages: Any) -> dict[str, Any]:
    if prompt is not None and messages is not None:
        raise InvalidRequestError(
            "prompt and messages exclude each other; give one of them", param="messages"
        )
    if messages is not None:
        return {"messages": _messages(messages)}
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"prompt is {prompt!r}; give a string, or a conversation as messages=[...]")
    if not prompt:
        raise InvalidRequestError(
            "the prompt is empty; give at least one character, or messages=[...]", param="prompt"
        )
    return {"prompt": prompt}


def _messages(messages: Any) -> tuple[Message, ...]:
    try:
        found = msgspec.convert(messages, tuple[_StrictMessage, ...], from_attributes=True)
    except msgspec.ValidationError as error:
        raise InvalidRequestError(
            f"messages cannot be read: {error}; give dictionaries with role and content",
            param="messages",
        ) from None
    if not found:
        raise InvalidRequestError("messages is empty; give at least one", param="messages")
    # "developer" is OpenAI's newer name for the role that chat templates call "system".
    return tuple(
        Message("system" if each.role == "developer" else each.role, each.content, each.name)
        for each in found
    )


class _StrictMessage(Struct, forbid_unknown_fields=True):
    """A message as a caller writes it, whose mistakes must not go unnoticed."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str
    name: str | None = None


def _positive(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidRequestError(
            f"{name}={value!r} must be a whole number, at least 1", param=name
        )
    return value
