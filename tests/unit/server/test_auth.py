"""API keys: what is accepted, and what is refused at start."""

from __future__ import annotations

import ast
import logging
from pathlib import Path

import pytest

from openllm.errors import ConfigurationError
from openllm.server import auth
from openllm.server.auth import ApiKeys, load_api_keys

KEY = "sk-first"
BEARER = (b"authorization", b"Bearer sk-first")


@pytest.mark.parametrize(
    "header",
    [BEARER, (b"x-api-key", b"sk-first"), (b"x-api-key", b"second")],
    ids=["bearer", "x-api-key", "second key"],
)
def test_every_configured_key_is_accepted(header: tuple[bytes, bytes]) -> None:
    assert ApiKeys([KEY, "second"]).accepts([(b"host", b"localhost"), header])


@pytest.mark.reliability("S-34", "S-35")
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"authorization", b"")],
        [(b"authorization", b"sk-first")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", b"Bearer  sk-first")],
        [(b"authorization", b"Bearer sk-first ")],
        [(b"authorization", b"Bearer\tsk-first")],
        [(b"authorization", b"bearer sk-first")],
        [(b"authorization", b"BEARER sk-first")],
        [(b"authorization", b"Basic c2stZmlyc3Q6")],
        [(b"authorization", b"Bearer sk-first\x00")],
        [(b"authorization", b"Bearer \xff\xfe")],
        [(b"authorization", "Bearer sk-först".encode())],
        [(b"authorization", b"Bearer SK-FIRST")],
        [(b"authorization", b"Bearer " + b"k" * 8192)],
        [(b"authorization", b"Bearer ' OR '1'='1")],
        [BEARER, BEARER],
        [BEARER, (b"authorization", b"Bearer wrong")],
        [BEARER, (b"x-api-key", b"wrong")],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"Bearer sk-first")],
        [(b"api-key", b"sk-first")],
    ],
)
def test_anything_else_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    assert not ApiKeys([KEY]).accepts(headers)


def test_without_keys_every_request_passes() -> None:
    keys = ApiKeys([])
    assert not keys
    assert keys.accepts([])
    assert keys.accepts([BEARER, BEARER])


@pytest.mark.reliability("S-34")
def test_keys_are_compared_as_digests_in_constant_time() -> None:
    tree = ast.parse(Path(auth.__file__).read_text())
    accepts = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "accepts"
    )
    called = {
        node.func.id
        for node in ast.walk(accepts)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert "compare_digest" in called
    loop = next(node for node in ast.walk(accepts) if isinstance(node, ast.For))
    assert not any(isinstance(node, ast.Return | ast.Break | ast.If) for node in ast.walk(loop))
    keys = ApiKeys([KEY])
    assert KEY not in repr(vars(keys))
    assert all(len(digest) == 32 for digest in keys._digests)


def test_a_file_gives_keys_beside_the_flag(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# team keys\n\nalpha#1\n  beta  \n")
    file.chmod(0o600)
    keys = load_api_keys([KEY], file)
    for key in (KEY, "alpha#1", "beta"):
        assert keys.accepts([(b"x-api-key", key.encode())])
    assert not keys.accepts([(b"x-api-key", b"# team keys")])


@pytest.mark.parametrize("key", ["", " ", "a b", "sk-canary\t", "nul\0", "line\n", "schlüssel"])
def test_a_key_no_client_can_send_is_refused(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_api_keys([key], None)
    assert caught.value.param == "api_key"
    assert "canary" not in caught.value.message


def test_a_bad_key_file_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("# nothing\n")
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for file in (tmp_path / "missing", tmp_path, empty, binary):
        with pytest.raises(ConfigurationError, match="API key file") as caught:
            load_api_keys([], file)
        assert str(file) in caught.value.message
        assert caught.value.param == "api_key_file"


def test_a_file_that_everyone_can_read_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("secret-key")
    for mode, warnings in ((0o600, 0), (0o640, 0), (0o644, 1)):
        caplog.clear()
        file.chmod(mode)
        with caplog.at_level(logging.WARNING, "openllm.server"):
            load_api_keys([], file)
        assert len(caplog.records) == warnings
        assert "secret-key" not in caplog.text
