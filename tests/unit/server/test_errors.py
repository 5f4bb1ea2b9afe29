"""The table from errors to statuses, over the whole exception tree."""

from __future__ import annotations

import json

import pytest

from openllm import errors
from openllm.errors import OpenLLMError, OverloadedError
from openllm.server.errors import (
    INTERNAL_MESSAGE,
    ProtocolError,
    error_body,
    error_reply,
    error_status,
)

STATUSES = {
    "OpenLLMError": 500,
    "InvalidRequestError": 400,
    "ContextLengthError": 400,
    "UnsupportedError": 400,
    "ModelNotFoundError": 404,
    "ModelFetchError": 503,
    "ConfigurationError": 500,
    "ModelFileError": 500,
    "AddressInUseError": 500,
    "OverloadedError": 429,
    "DeadlineError": 504,
    "EngineError": 500,
    "EngineNotInstalledError": 503,
    "EngineStartError": 503,
    "OutOfMemoryError": 503,
    "EngineCrashedError": 503,
    "EngineUnavailableError": 503,
}


def tree(root: type[OpenLLMError]) -> list[type[OpenLLMError]]:
    return [root, *(leaf for child in root.__subclasses__() for leaf in tree(child))]


def test_every_error_has_a_status() -> None:
    found = {
        each.__name__: error_status(each("x"))
        for each in tree(OpenLLMError)
        if each.__module__ == errors.__name__
    }
    assert found == STATUSES


@pytest.mark.parametrize("seconds", [None, 0, 0.01, 1, 1.5, 59.2, 1e9])
def test_retry_after_is_whole_seconds_from_1_to_60(seconds: float | None) -> None:
    reply = error_reply(OverloadedError("full", retry_after=seconds))
    (value,) = [value for name, value in reply.headers if name == b"retry-after"]
    assert 1 <= int(value) <= 60
    assert int(value) >= min(seconds or 0, 60)


def test_unforeseen_errors_keep_their_text_to_themselves() -> None:
    for error in (ValueError("/secret/path"), errors.EngineError("0xdeadbeef")):
        assert json.loads(error_reply(error).body)["error"] == {
            "message": INTERNAL_MESSAGE,
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }


def test_protocol_errors_bring_status_and_headers() -> None:
    reply = error_reply(ProtocolError(413, "big", headers=[(b"connection", b"close")]))
    assert reply.status == 413
    assert reply.headers == [(b"connection", b"close")]
    assert json.loads(reply.body)["error"]["code"] == "request_too_large"


@pytest.mark.reliability("F-17")
@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "é\u2028\U0001f600", '"\\\r\n'])
def test_any_text_serialises(text: str) -> None:
    error = json.loads(error_body(400, text, param=text))["error"]
    assert error["message"] == error["param"] == text.replace("\ud800", "?")
