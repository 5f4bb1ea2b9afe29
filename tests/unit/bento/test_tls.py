from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest

from openllm.bento.tls import create_tls
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError


def settings(folder: Path, certificate: str, key: str = "", **options: Any) -> ServerSettings:
    if key:
        options["ssl_keyfile"] = folder / key
    return ServerSettings(ssl_certfile=folder / certificate, **options)


def test_without_a_certificate_there_is_no_tls() -> None:
    assert create_tls(ServerSettings()) is None


@pytest.mark.parametrize(
    ("certificate", "key", "options"),
    [
        ("cert.pem", "key.pem", {}),
        ("both.pem", "", {}),
        ("cert.pem", "locked.pem", {"ssl_keyfile_password": "sesame"}),
        ("cert.pem", "key.pem", {"ssl_ciphers": "ECDHE+AESGCM", "ssl_version": 17}),
    ],
)
def test_right_files_are_loaded(
    pems: Path, certificate: str, key: str, options: dict[str, Any]
) -> None:
    tls = create_tls(settings(pems, certificate, key, **options))
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_NONE


def test_client_certificates_can_be_required(pems: Path) -> None:
    tls = create_tls(
        settings(pems, "cert.pem", "key.pem", ssl_ca_certs=pems / "cert.pem", ssl_cert_reqs=2)
    )
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED
    assert len(tls.get_ca_certs()) == 1


@pytest.mark.parametrize(
    ("certificate", "key", "options", "says"),
    [
        ("text.pem", "key.pem", {}, r"^--ssl-certfile '.*text\.pem' holds no certificate in PEM"),
        ("key.pem", "key.pem", {}, r"^--ssl-certfile '.*key\.pem' holds no certificate in PEM"),
        ("cert.pem", "text.pem", {}, r"^--ssl-keyfile '.*text\.pem' holds no private key"),
        ("cert.pem", "cert.pem", {}, r"^--ssl-keyfile '.*cert\.pem' holds no private key"),
        ("cert.pem", "", {}, r"^--ssl-certfile '.*' holds no private key.*give.*--ssl-keyfile$"),
        ("cert.pem", "damaged.pem", {}, r"^--ssl-keyfile '.*damaged\.pem' .* is damaged"),
        ("cert.pem", "other.pem", {}, r"^--ssl-keyfile '.*other\.pem' is not the key of .*cert"),
        ("cert.pem", "locked.pem", {}, "is encrypted; give its password with --ssl-keyfile-pass"),
        (
            "cert.pem",
            "locked.pem",
            {"ssl_keyfile_password": "open"},
            "does not open with the password of --ssl-keyfile-password",
        ),
        ("cert.pem", "key.pem", {"ssl_ciphers": "none"}, "--ssl-ciphers 'none' chooses no cipher"),
        ("cert.pem", "key.pem", {"ssl_version": 999}, "--ssl-version 999 is no version"),
        ("cert.pem", "key.pem", {"ssl_version": 16}, "--ssl-version 16 is no version"),
    ],
)
def test_what_is_wrong_is_named(
    pems: Path, certificate: str, key: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says) as raised:
        create_tls(settings(pems, certificate, key, **options))
    assert "\n" not in raised.value.message


def test_authorities_that_are_none_are_named(pems: Path) -> None:
    wrong = settings(pems, "cert.pem", "key.pem", ssl_ca_certs=pems / "text.pem")
    with pytest.raises(ConfigurationError, match=r"^--ssl-ca-certs '.*text\.pem' holds no cert"):
        create_tls(wrong)
