"""Flags and messages of the commands that talk to a running server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

if TYPE_CHECKING:
    from open_llm_client import Client, ClientError
    from open_llm_client.protocol import SamplingOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_CONNECTION = (
    click.option(
        "--url",
        default="http://127.0.0.1:5000",
        envvar="OPEN_LLM_URL",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="Address of the server.",
    ),
    click.option(
        "--api-key",
        "--api_key",
        envvar="OPEN_LLM_API_KEY",
        show_envvar=True,
        metavar="TEXT",
        help="Key of the server, if it asks for one.",
    ),
    click.option("--model", metavar="NAME", help="Served model [default: the server's first]."),
)
_SAMPLING: tuple[tuple[str, type, str], ...] = (
    ("temperature", float, "0 is deterministic, 1 the model's own distribution."),
    ("top_k", int, "Sample from the k likeliest tokens."),
    ("top_p", float, "Sample from the likeliest tokens that add up to this probability."),
    ("stop_sequence", str, "Text that ends the reply; may be repeated."),
    ("frequency_penalty", float, "Lowers a token by its count so far, 0 to 1."),
    ("presence_penalty", float, "Lowers every token that has appeared, 0 to 1."),
    ("max_tokens", int, "Most new tokens of the reply."),
    ("seed", int, "Makes sampling repeatable."),
)


def remote_options(command: Command) -> Command:
    """Add the flags for the server, the model and how tokens are chosen.

    The command takes `url` and `api_key`, and passes its other values to `sampling_options`. The
    server checks their ranges, and its own defaults stand for those left out.
    """
    for name, kind, text in reversed(_SAMPLING):
        hyphenated = f"--{name.replace('_', '-')}"
        spellings = dict.fromkeys([hyphenated, f"--{name}"])
        repeated = name == "stop_sequence"
        option = click.option(*spellings, name, type=kind, multiple=repeated, help=text)
        command = option(command)
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def sampling_options(model: str | None, values: dict[str, Any]) -> SamplingOptions:
    """Return what the user set, as the client's `chat` takes it."""
    options: SamplingOptions = {"model": model, **values}  # type: ignore[typeddict-item]
    options["stop_sequence"] = list(values["stop_sequence"]) or None
    return options


def connect(url: str, api_key: str | None) -> Client:
    """Return a client; an unusable address or key ends the command with status 2."""
    import open_llm_client

    try:
        return open_llm_client.create(url, api_key=api_key)
    except open_llm_client.InvalidAddress as error:
        raise click.UsageError(str(error)) from None


def explain(error: ClientError, url: str) -> str:
    """Return one line that says what is wrong and how to mend it."""
    from open_llm_client import ConnectionFailed, Unauthorized

    if isinstance(error, ConnectionFailed) and error.retryable:
        return _unreachable(error, url)
    text = " ".join(str(error).split())
    if isinstance(error, Unauthorized) and "--api-key" not in text:
        return f"{text}: give the server's --api-key, or set OPEN_LLM_API_KEY"
    return text


def _unreachable(error: ClientError, url: str) -> str:
    import socket
    import ssl

    name = urlsplit(url).hostname
    for cause in _causes(error):
        if isinstance(cause, socket.gaierror):
            return f"cannot reach {url}: the name {name!r} does not resolve; {_CORRECT}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"cannot reach {url}: its certificate is not trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"cannot reach {url}: it does not speak TLS ({cause.reason}); {_CORRECT}"
    return f"cannot reach {url}: start a server with `openllm start`, or give its --url"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


_CORRECT = "correct --url, e.g. http://127.0.0.1:5000"


def write_reply(text: str) -> None:
    """Write text of a model to stdout at once; control characters do not reach a terminal."""
    sys.stdout.write(text.translate(_NO_CONTROL) if sys.stdout.isatty() else text)
    sys.stdout.flush()


# A model's text must not move the cursor, rename the window or answer for the user.
_NO_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
