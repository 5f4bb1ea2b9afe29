"""`openllm doctor` on the network: the hub that models come from, proxies, the server's port."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from openllm.cli.doctor_check import Check

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.config.server import ServerSettings

LIMIT = 3.0
"""Seconds that the hub may take to answer."""
MAX_PORT = 65535

_PROXIES = ("https_proxy", "http_proxy", "all_proxy", "no_proxy")
_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")


def look_at_hub(options: DownloadOptions) -> Sequence[Check]:
    """Say whether the hub answers, through which proxy, and whether a token is set."""
    return (hub(options), *proxies(), *token())


def hub(options: DownloadOptions) -> Check:
    """Ask the hub's address for anything; any answer shows that it can be reached."""
    try:
        endpoint = options.endpoint
    except ValueError as error:
        fix = f"correct or unset HF_ENDPOINT: {error}"
        return Check("hub", "fail", "HF_ENDPOINT is not an address", fix)
    if options.is_offline:
        return Check("hub", "off", f"offline mode: {endpoint} is not asked, the store must do")
    import httpx2

    began = perf_counter()
    try:
        with httpx2.Client(timeout=LIMIT, follow_redirects=False) as client:
            status = client.head(endpoint).status_code
    except Exception as error:
        reason = str(error) or type(error).__name__
        return Check("hub", "warn", f"{endpoint} cannot be reached: {reason}", _way_out(reason))
    text = f"{endpoint} answers in {(perf_counter() - began) * 1000:.0f} ms"
    if status >= 500:
        return Check("hub", "warn", f"{text}, with status {status}", "try again later")
    return Check("hub", "ok", text)


def proxies() -> Sequence[Check]:
    """Show the proxies of the environment; a password in one is taken out with all else."""
    names = [name for each in _PROXIES for name in (each, each.upper()) if os.environ.get(name)]
    found = [f"{name}={os.environ[name]}" for name in names]
    missing = [
        f"{name}={os.environ[name]}"
        for name in _CERTIFICATES
        if os.environ.get(name) and not Path(os.environ[name]).exists()
    ]
    checks = [Check("proxy", "ok", ", ".join(found))] if found else []
    if missing:
        text = f"{', '.join(missing)} does not exist"
        checks.append(Check("certificates", "warn", text, "correct it, or unset it"))
    return checks


def token() -> Sequence[Check]:
    """Say where a hub token is, and warn of a file that others can read; never its value."""
    if os.environ.get("HF_TOKEN"):
        return (Check("token", "ok", "in HF_TOKEN"),)
    folder = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    path = Path(os.path.expanduser(os.environ.get("HF_TOKEN_PATH") or f"{folder}/token"))
    try:
        mode = path.stat().st_mode
    except OSError:
        return ()
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        text = f"other users can read the hub token in {path}"
        return (Check("token", "warn", text, f"chmod 600 {path}"),)
    return (Check("token", "ok", f"in {path}"),)


def look_at_port(settings: ServerSettings) -> Sequence[Check]:
    """Say whether the address that `openllm start` takes with these settings is free."""
    from openllm.bento.listen import listen
    from openllm.errors import AddressInUseError, ConfigurationError

    host, port = settings.host, settings.port
    try:
        listen(host, port, 1).close()
    except AddressInUseError as error:
        fix = f"choose another for a second server: openllm start --port {_next(port)}"
        return (Check("port", "warn", error.message.partition(";")[0], fix),)
    except ConfigurationError as error:
        usual = type(settings)()
        fix = f"choose another address: openllm start --host {usual.host} --port {usual.port}"
        return (Check("port", "fail", error.message, fix),)
    return (Check("port", "ok", f"{port} on {host} is free" if port else "0: a free one is taken"),)


def _next(port: int) -> int:
    return port + 1 if port < MAX_PORT else port - 1


def _way_out(reason: str) -> str:
    if "certificate" in reason.lower():
        return "set SSL_CERT_FILE to your network's certificates"
    return "check the network and the proxy, set HF_ENDPOINT to a mirror, or work with --offline"
