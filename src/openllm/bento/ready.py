"""The line that says that the server is ready: where it is, and a command to try it with."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import TextIO

from openllm.config.server import ServerSettings

logger = logging.getLogger("openllm")


def ready_line(settings: ServerSettings, port: int, models: Sequence[str]) -> str:
    """Return a line for people, or one of JSON where the port was left to the system."""
    url = _base_url(settings, port)
    example = (_grpcurl if settings.grpc else _curl)(url, models[0], keyed=settings.keyed)
    if settings.port == 0:
        return json.dumps({"ready": url, "port": port, "models": models, "try": example})
    return f"Ready: {', '.join(models)} at {url} (stop: Ctrl-C). Try: {example}"


def announce(line: str) -> None:
    """Print `line`; a full disk behind standard output is no reason to end."""
    try:
        print(line, flush=True)
    except OSError as error:
        logger.warning("standard output cannot be written: %s", error.strerror)
        _silence(sys.stdout)


def end_of_log() -> None:
    """Write what standard error still holds, if that is possible."""
    try:
        print(end="", file=sys.stderr, flush=True)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Drop what a stream holds and will get.

    Python would try at the end of the process to write it, and spoil the exit status.
    """
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def _base_url(settings: ServerSettings, port: int) -> str:
    """Return an URL that reaches the server from this machine."""
    scheme = ("grpc" if settings.grpc else "http") + ("s" if settings.ssl_certfile else "")
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host
    host = "[::1]" if host == "::" else f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}:{port}"


def _curl(url: str, model: str, *, keyed: bool) -> str:
    key = ' -H "Authorization: Bearer $OPEN_LLM_API_KEY"' if keyed else ""
    data = _data(model)
    return f"curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d {data}"


def _grpcurl(url: str, model: str, *, keyed: bool) -> str:
    scheme, _, address = url.partition("://")
    plain = " -plaintext" if scheme == "grpc" else ""
    key = ' -H "authorization: Bearer $OPEN_LLM_API_KEY"' if keyed else ""
    return f"grpcurl{plain}{key} -d {_data(model)} {address} openllm.v1.OpenLLM/ChatCompletion"


def _data(model: str) -> str:
    """Return a conversation with `model` as an argument of a shell command."""
    messages = [{"role": "user", "content": "Hello! Who are you?"}]
    return shlex.quote(json.dumps({"model": model, "messages": messages}))
