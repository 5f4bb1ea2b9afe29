"""Addresses that a download can be asked to use."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from openllm.bento.options import read_configuration
from openllm.config.download import DownloadOptions
from openllm.errors import ConfigurationError

WRONG = (
    "nonsense",
    "ftp://hub/",
    "http://",
    "http://[",
    "http://h:99999",
    "http://127.0.0.1:99999",
    "http://h:port",
    "http://h:0",
    "http://h..x/",
    "http://h/\x01",
    "http://h/" + "x" * 9000,
)


@pytest.mark.parametrize("address", WRONG, ids=lambda address: ascii(address)[:24])
def test_what_is_no_address_is_no_hub(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="give an address such as"):
        DownloadOptions(hub_endpoint=address)
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ConfigurationError, match="HF_ENDPOINT is wrong: give an address such as"):
        _ = DownloadOptions().endpoint


def test_the_command_line_names_a_wrong_address() -> None:
    with pytest.raises(ConfigurationError, match=r"(?s)hub-endpoint.*99999.*give an address"):
        read_configuration("demo", {"hub_endpoint": "http://127.0.0.1:99999"}, {})


@pytest.mark.reliability("S-29")
@pytest.mark.parametrize("user", ["me:hunter22", "hunter22", ":hunter22"])
def test_a_password_in_the_address_is_refused_and_not_shown(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"https://{user}@hub.example/x"
    with pytest.raises(ConfigurationError, match="without a user or password") as raised:
        read_configuration("demo", {"hub_endpoint": address}, {})
    assert "hunter22" not in raised.value.message
    monkeypatch.setenv("HF_ENDPOINT", address)
    with pytest.raises(ConfigurationError, match="without a user or password") as raised:
        _ = DownloadOptions().endpoint
    assert "hunter22" not in raised.value.message


@pytest.mark.parametrize(
    "address", ["https://hub.example", "http://127.0.0.1:8080/hf/", "http://[::1]:80"]
)
def test_an_address_loses_its_last_slash(address: str) -> None:
    assert DownloadOptions(hub_endpoint=address).endpoint == address.rstrip("/")


@pytest.mark.parametrize("field", ["store_quota", "download_rate"])
def test_bytes_are_given_as_a_number_or_as_a_size(field: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    for typed, size in (("10GB", 10**10), ("4 GiB", 1 << 32), ("2048", 2048), (4096, 4096)):
        file.write_text(f"{field}: {typed}\n")
        variable = {f"OPEN_LLM_{field.upper()}": str(typed)}
        ways: tuple[tuple[dict[str, object], dict[str, str], str | None], ...] = (
            ({field: typed}, {}, None), ({}, variable, None), ({}, {}, str(file)),
        )  # fmt: skip
        for options, environ, given in ways:
            found = read_configuration("demo", options, environ, file=given).download
            assert getattr(found, field) == size


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("10XB", "'10XB': write a number of bytes, or a size such as 4GiB"),
        (-1, "-1 must be a number of bytes, or a size such as 4GiB or 10GB, 1024 or more"),
        ("1kB", "1000 must be a number of bytes, or a size"),
        (1.5, "1.5 must be a number of bytes, or a size"),
        (True, "true must be a number of bytes, or a size"),
    ],
)
def test_what_is_no_number_of_bytes_is_refused(typed: object, said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_configuration("demo", {"download_rate": typed}, {})
    assert f"--download-rate {said}" in refused.value.message


def test_a_saved_token_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match=f"{tmp_path} cannot be read: Is a directory"):
        _ = DownloadOptions().token
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/dev/null/home/token")
    assert DownloadOptions().token is None
