"""Proxies and certificates of the environment that cannot be used are told by their variables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError
from openllm.models.transfer_client import new_client


def refusal() -> str:
    with pytest.raises(ConfigurationError) as raised:
        new_client(DownloadOptions())
    return raised.value.message


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize("name", ["ALL_PROXY", "https_proxy"])
@pytest.mark.parametrize("value", ["nonsense://me:secret@h", "me:secret:7", "socks4://secret"])
def test_a_proxy_that_is_none(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    said = refusal()
    assert said.startswith(f"{name} names no proxy that can be used: give http://HOST:PORT")
    assert "secret" not in said


def test_a_proxy_that_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    monkeypatch.setitem(sys.modules, "socksio", None)
    assert refusal().startswith("ALL_PROXY names a SOCKS proxy, which needs a package: pip install")


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_are_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    said = refusal()
    assert said.startswith(f"TLS cannot be set up with {file}: ")
    assert "correct SSL_CERT_FILE" in said
