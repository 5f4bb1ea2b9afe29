"""Request messages of the gRPC API: bounded, parsed, and checked as the bodies of HTTP are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from pydantic import Field

from openllm.errors import InvalidRequestError
from openllm.server.openai_schema import (
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    Text,
    TokenIds,
)
from openllm.server.strict_json import MAX_CONTAINERS, MAX_VALUES, parse_object
from openllm.server.validation import WireModel, validate

Kind = TypeVar("Kind", bound=Message)

Name = Annotated[str, Field(max_length=256)]

# Where a number that goes on and on is taken to end: reading on would cost time by its square.
_VARINT_BITS = 70


class ModelRequest(WireModel):
    """Fields of GetModelRequest."""

    model: Annotated[str, Field(min_length=1, max_length=256)]


class TokenizeRequest(WireModel):
    """Fields of the message of the same name."""

    model: Name | None = None
    text: Text
    special: bool | None = None


class DetokenizeRequest(WireModel):
    """Fields of the message of the same name."""

    model: Name | None = None
    token_ids: TokenIds


def parse_message(raw: bytes, kind: type[Kind]) -> Kind:
    """Parse a request.

    Raises:
        InvalidRequestError: It is no such message, holds too much, or fields not known here.
    """
    name = kind.DESCRIPTOR.full_name
    _bound(raw, name)
    try:
        message: Kind = kind.FromString(raw)
    except DecodeError:
        raise InvalidRequestError(
            f"the request is not a message {name} with strings in UTF-8", code="invalid_message"
        ) from None
    size = message.ByteSize()
    message.DiscardUnknownFields()
    if message.ByteSize() != size:
        raise _unknown(UnknownFieldSet(kind.FromString(raw)), name)
    return message


def chat_request(message: Message) -> ChatCompletionRequest:
    """Raises `InvalidRequestError` if it is not what HTTP's body may be."""
    return validate(ChatCompletionRequest, _with_schema(_fields(message)))


def completion_request(message: Message) -> CompletionRequest:
    """Raises `InvalidRequestError` if it is not what HTTP's body may be."""
    fields = _with_tokens(_fields(message), "prompt", "prompt_token_ids")
    return validate(CompletionRequest, _with_schema(fields))


def embedding_request(message: Message) -> EmbeddingRequest:
    """Raises `InvalidRequestError` if it is not what HTTP's body may be."""
    return validate(EmbeddingRequest, _with_tokens(_fields(message), "input", "input_token_ids"))


def model_request(message: Message) -> ModelRequest:
    """Raises `InvalidRequestError` if it names no model."""
    return validate(ModelRequest, _fields(message))


def tokenize_request(message: Message) -> TokenizeRequest:
    """Raises `InvalidRequestError` if there is nothing to encode."""
    return validate(TokenizeRequest, _fields(message))


def detokenize_request(message: Message) -> DetokenizeRequest:
    """Raises `InvalidRequestError` if there is nothing to decode."""
    return validate(DetokenizeRequest, _fields(message))


def _unknown(fields: UnknownFieldSet, name: str) -> InvalidRequestError:
    """`fields` are those of the outermost message, none if they are further in."""
    what = f"field number {fields[0].field_number} of" if len(fields) else "a field within"
    return InvalidRequestError(
        f"{what} the {name} is not known to this server; leave it out, or compare your .proto file "
        "with the server's",
        code="unknown_parameter",
    )


def _fields(message: Message) -> dict[str, Any]:
    """Return the fields that are set, as JSON would hold them.

    Raises:
        InvalidRequestError: There are more than `MAX_VALUES` values in lists, or a text holds NUL.
    """
    return _Reader().fields(message)


class _Reader:
    def __init__(self) -> None:
        self._left = MAX_VALUES

    def fields(self, message: Message) -> dict[str, Any]:
        return {field.name: self._value(field.name, value) for field, value in message.ListFields()}

    def _value(self, name: str, value: Any) -> Any:
        if isinstance(value, str):
            if "\0" in value:
                raise InvalidRequestError(f"{name} holds the character NUL; remove it", param=name)
            return value
        if isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, Message):
            return self.fields(value)
        if isinstance(value, Mapping):
            return {str(key): each for key, each in value.items()}
        return self._list(name, value)

    def _list(self, name: str, values: Sequence[Any]) -> list[Any]:
        self._left -= len(values)
        if self._left < 0:
            raise InvalidRequestError(f"{name} holds more than {MAX_VALUES} values", param=name)
        if values and isinstance(values[0], int):
            return list(values)
        return [self._value(name, each) for each in values]


def _with_tokens(fields: dict[str, Any], name: str, as_ids: str) -> dict[str, Any]:
    """Make one field, as HTTP has it, of the two that hold texts or token ids."""
    lists = fields.pop(as_ids, None)
    if lists is not None:
        if name in fields:
            raise InvalidRequestError(
                f"{name} cannot be combined with {as_ids}; send one of them", param=as_ids
            )
        fields[name] = [each.get("token_ids", []) for each in lists]
    return fields


def _with_schema(fields: dict[str, Any]) -> dict[str, Any]:
    """Parse the JSON schema, which is text here."""
    form = fields.get("response_format", {}).get("json_schema", {})
    if "schema" in form:
        try:
            form["schema"] = parse_object(form["schema"].encode())
        except InvalidRequestError as error:
            where = "response_format.json_schema.schema"
            message = error.message.replace("the request body", where, 1)
            raise InvalidRequestError(message, param=where, code=error.code) from None
    return fields


def _bound(raw: bytes, name: str) -> None:
    """Bound the memory that parsing can take: an empty message inside costs two bytes here and
    thirty times as much once it is parsed."""
    place, count = 0, 0
    while place < len(raw):
        count += 1
        if count > MAX_CONTAINERS:
            raise InvalidRequestError(f"the request holds more than {MAX_CONTAINERS} fields")
        tag, place = _varint(raw, place)
        kind = tag & 7
        if kind == 2:
            size, place = _varint(raw, place)
            place += size
        elif kind == 0:
            _, place = _varint(raw, place)
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise InvalidRequestError(
                f"the request is not a message {name}: proto3 has no groups", code="invalid_message"
            )


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    """Return a number and where it ends; one that is cut off or too long is left for the parser."""
    value, shift = 0, 0
    while place < len(raw) and shift < _VARINT_BITS:
        byte = raw[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, place
