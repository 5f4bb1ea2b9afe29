"""The certificate and key of HTTPS: loaded once, and every fault of theirs named."""

from __future__ import annotations

import ssl
from pathlib import Path

from openllm.config.names import flag
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError

_MISMATCHES = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")


def create_tls(settings: ServerSettings) -> ssl.SSLContext | None:
    """Return what the server's sockets need for HTTPS, None for plain HTTP.

    Raises:
        ConfigurationError: A certificate, key, password or choice is wrong; names file and flag.
    """
    if settings.ssl_certfile is None:
        return None
    context = _context(settings.ssl_version)
    _check_certificates(settings.ssl_certfile, "ssl_certfile")
    _load_key(context, settings, settings.ssl_certfile)
    if settings.ssl_ca_certs is not None:
        _check_certificates(settings.ssl_ca_certs, "ssl_ca_certs")
        context.load_verify_locations(settings.ssl_ca_certs)
    context.verify_mode = ssl.VerifyMode(settings.ssl_cert_reqs or 0)
    if settings.ssl_ciphers is not None:
        _choose_ciphers(context, settings.ssl_ciphers)
    return context


def _context(version: int | None) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if version is None else version)
    except ValueError:
        context = None
    if context is None or context.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ConfigurationError(
            f"--ssl-version {version} is no version for a server; leave it out, or give "
            f"{ssl.PROTOCOL_TLS_SERVER:d} (ssl.PROTOCOL_TLS_SERVER)",
            param="ssl_version",
        )
    return context


def _check_certificates(file: Path, option: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except (ssl.SSLError, OSError):
        raise ConfigurationError(
            f"{flag(option)} {str(file)!r} holds no certificate in PEM form, which begins with "
            "-----BEGIN CERTIFICATE-----",
            param=option,
        ) from None


def _load_key(context: ssl.SSLContext, settings: ServerSettings, certificate: Path) -> None:
    password = settings.ssl_keyfile_password
    try:
        # Without a function for the password OpenSSL would ask for it in the terminal.
        context.load_cert_chain(certificate, settings.ssl_keyfile, lambda: password or "")
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _key_error(settings, certificate, getattr(error, "reason", None)) from None


def _key_error(
    settings: ServerSettings, certificate: Path, reason: str | None
) -> ConfigurationError:
    if settings.ssl_keyfile is None:
        option, file, fix = "ssl_certfile", certificate, "; give the key's file with --ssl-keyfile"
    else:
        option, file, fix = "ssl_keyfile", settings.ssl_keyfile, ""
    content = file.read_bytes()
    if reason in _MISMATCHES:
        problem = f"is not the key of the certificate in {str(certificate)!r}"
    elif b"PRIVATE KEY-----" not in content:
        problem = f"holds no private key in PEM form{fix}"
    elif b"ENCRYPTED" not in content:
        problem = "holds a private key that is damaged"
    elif settings.ssl_keyfile_password is None:
        problem = "is encrypted; give its password with --ssl-keyfile-password"
    else:
        problem = "does not open with the password of --ssl-keyfile-password"
    return ConfigurationError(f"{flag(option)} {str(file)!r} {problem}", param=option)


def _choose_ciphers(context: ssl.SSLContext, ciphers: str) -> None:
    try:
        context.set_ciphers(ciphers)
    except ssl.SSLError:
        raise ConfigurationError(
            f"--ssl-ciphers {ciphers!r} chooses no cipher; `openssl ciphers` lists the names",
            param="ssl_ciphers",
        ) from None
