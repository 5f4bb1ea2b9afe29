"""Messages of the gRPC API: the file, what is generated from it, and what is served."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.errors import InvalidRequestError
from openllm.server.grpc_api import METHODS
from openllm.server.grpc_messages import chat_request, completion_request, parse_message
from openllm.server.openai_schema import ChatCompletionRequest, CompletionRequest
from openllm.server.proto import openllm_pb2 as pb

PROTO = Path(pb.__file__).with_name("openllm.proto").read_text()


def test_every_method_of_the_file_is_served() -> None:
    service = pb.DESCRIPTOR.services_by_name["OpenLLM"]
    assert [f"/openllm.v1.OpenLLM/{each.name}" for each in service.methods] == list(METHODS)


def test_the_generated_module_is_that_of_the_file() -> None:
    """Compare names and numbers of all fields; `make proto` brings them together."""
    written: dict[str, dict[str, int]] = {}
    for line in PROTO.splitlines():
        if opened := re.match(r"message (\w+) \{", line):
            written[opened[1]] = {}
        elif field := re.match(r"  (?:[\w<>, ]+) (\w+) = (\d+);", line):
            written[opened_last(written)][field[1]] = int(field[2])
    generated = {
        name: {field.name: field.number for field in message.fields}
        for name, message in pb.DESCRIPTOR.message_types_by_name.items()
    }
    assert written == generated


def opened_last(written: dict[str, dict[str, int]]) -> str:
    return list(written)[-1]


@pytest.mark.parametrize(
    ("message", "model", "other"),
    [
        (pb.ChatCompletionRequest, ChatCompletionRequest, set()),
        (pb.CompletionRequest, CompletionRequest, {"prompt_token_ids"}),
    ],
)
def test_requests_have_the_fields_of_http(message: type, model: type, other: set[str]) -> None:
    """All but those that HTTP takes without effect, and those that choose a stream."""
    fields = {field.name for field in message.DESCRIPTOR.fields} - other  # type: ignore[attr-defined]
    known = set(model.model_fields)  # type: ignore[attr-defined]
    assert fields <= known
    assert known - fields == {
        "metadata", "prompt_cache_key", "safety_identifier", "stream", "stream_options", "user",
    }  # fmt: skip


def test_values_arrive_exactly() -> None:
    message = pb.ChatCompletionRequest(
        messages=[pb.ChatMessage(role="user", content="")],
        temperature=0.7, seed=-(2**63), stop=["a", "b"], logit_bias={5: -1.5}, top_k=0,
    )  # fmt: skip
    wire = chat_request(parse_message(message.SerializeToString(), pb.ChatCompletionRequest))
    assert (wire.temperature, wire.seed, wire.stop) == (0.7, -(2**63), ["a", "b"])
    assert wire.logit_bias == {"5": -1.5}
    assert (wire.top_k, wire.top_p, wire.messages[0].text) == (0, None, "")


def test_token_ids_are_prompts() -> None:
    ids = [pb.TokenIds(token_ids=[1, 2]), pb.TokenIds(token_ids=[3])]
    wire = completion_request(pb.CompletionRequest(prompt_token_ids=ids))
    assert wire.prompt == [[1, 2], [3]]
    with pytest.raises(InvalidRequestError, match="must not be empty"):
        completion_request(pb.CompletionRequest(prompt_token_ids=[pb.TokenIds()]))


def test_a_schema_is_json_text() -> None:
    schema = pb.JsonSchema(name="x", schema='{"minLength": 3}')
    form = pb.ResponseFormat(type="json_schema", json_schema=schema)
    turn = pb.ChatMessage(role="user", content="hi")
    wire = chat_request(pb.ChatCompletionRequest(messages=[turn], response_format=form))
    assert wire.response_format is not None
    assert wire.response_format.json_schema is not None
    assert wire.response_format.json_schema.schema_ == {"minLength": 3}


def test_too_many_values_are_refused_before_they_are_copied() -> None:
    ids = [pb.TokenIds(token_ids=range(50_000))] * 10
    message = pb.CompletionRequest(prompt_token_ids=ids)
    with pytest.raises(InvalidRequestError, match="more than 500000 values"):
        completion_request(message)


def test_a_number_that_does_not_end_is_not_read_on() -> None:
    # What comes behind ten bytes is read as a field, of a kind that there is not.
    with pytest.raises(InvalidRequestError, match="proto3 has no groups"):
        parse_message(b"\x08" + b"\xff" * 32_000, pb.ChatCompletionRequest)


@given(raw=st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_are_a_message_or_refused(raw: bytes) -> None:
    try:
        message = parse_message(raw, pb.ChatCompletionRequest)
        chat_request(message)
    except InvalidRequestError as error:
        error.message.encode()
