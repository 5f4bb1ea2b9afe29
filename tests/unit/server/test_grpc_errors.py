"""gRPC's codes beside the HTTP statuses."""

from __future__ import annotations

from http import HTTPStatus

import grpc
import pytest

from openllm import errors
from openllm.errors import (
    ContextLengthError,
    DeadlineError,
    EngineCrashedError,
    EngineError,
    ModelNotFoundError,
    OpenLLMError,
    OverloadedError,
    UnsupportedError,
)
from openllm.server.errors import INTERNAL_MESSAGE, ProtocolError, error_status
from openllm.server.grpc_errors import CODES, error_metadata, grpc_code, grpc_message

TREE = [each for each in vars(errors).values() if isinstance(each, type)]


def test_every_code_is_one_of_grpc() -> None:
    assert set(CODES.values()) <= {each.name for each in grpc.StatusCode}
    assert all(HTTPStatus(status) for status in CODES)


@pytest.mark.parametrize("kind", [each for each in TREE if issubclass(each, OpenLLMError)])
def test_every_error_has_a_code_that_says_whose_fault_it_is(kind: type[OpenLLMError]) -> None:
    status = error_status(kind("no"))
    code = grpc_code(kind("no"))
    assert (code == "INTERNAL") == (status == 500)
    ours = {"INTERNAL", "UNAVAILABLE", "DEADLINE_EXCEEDED"}
    assert (code in ours) == (status >= 500)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ContextLengthError("no"), "INVALID_ARGUMENT"),
        (UnsupportedError("no"), "INVALID_ARGUMENT"),
        (ModelNotFoundError("no"), "NOT_FOUND"),
        (OverloadedError("no"), "RESOURCE_EXHAUSTED"),
        (DeadlineError("no"), "DEADLINE_EXCEEDED"),
        (EngineCrashedError("no"), "UNAVAILABLE"),
        (EngineError("no"), "INTERNAL"),
        (ProtocolError(401, "no"), "UNAUTHENTICATED"),
        (ProtocolError(418, "no"), "INTERNAL"),
        (ValueError("no"), "INTERNAL"),
    ],
    ids=repr,
)
def test_codes(error: Exception, code: str) -> None:
    assert grpc_code(error) == code
    assert grpc_message(error) == (INTERNAL_MESSAGE if code == "INTERNAL" else "no")


def test_metadata_can_always_be_sent() -> None:
    error = OverloadedError("\ud800", param="naïve\n" * 100, code="full", retry_after=1e9)
    fields = dict(error_metadata(error))
    assert fields["error-code"] == "full"
    assert fields["retry-after"] == "60"
    assert fields["error-param"].isascii()
    assert fields["error-param"].isprintable()
    assert len(fields["error-param"]) <= 128
    grpc_message(error).encode()
    assert len(grpc_message(OverloadedError("x" * 9999))) < 600


def test_an_error_without_a_field_to_blame_names_none() -> None:
    assert dict(error_metadata(DeadlineError("no"))) == {"error-code": "timeout"}
