"""Flags and messages of the commands that talk to a running server."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import click

from openllm.cli.options import field_flags, given
from openllm.cli.streams import harmless
from openllm.config.effective import checked
from openllm.config.explain import together
from openllm.config.flags import read_flags
from openllm.config.model import RequestDefaults
from openllm.config.names import URL, flag, variable
from openllm.config.server import ServerSettings
from openllm.errors import ConfigurationError, InvalidRequestError, OpenLLMError

if TYPE_CHECKING:
    from open_llm_client import Client, ClientError
    from open_llm_client.protocol import SamplingOptions

Command = TypeVar("Command", bound=Callable[..., Any])

_LISTENS = ServerSettings.model_fields
SERVER_URL = f"http://{_LISTENS['host'].default}:{_LISTENS['port'].default}"
"""Where `openllm start` serves."""

key_option = click.option(
    flag("api_key"),
    envvar=variable("api_key"),
    show_envvar=True,
    metavar="TEXT",
    help="Key of the server, if it asks for one.",
)
_CONNECTION = (
    click.option(
        "--url",
        default=SERVER_URL,
        envvar=URL,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="Address of the server.",
    ),
    key_option,
    click.option("--model", metavar="NAME", help="Served model [default: the server's first]."),
)
_SAMPLING = tuple(name for name in RequestDefaults.model_fields if name != "prompt")
"""What a request may say of how tokens are chosen; the pre-prompt is the server's alone."""


def remote_options(command: Command) -> Command:
    """Add the flags for the server, the model and how tokens are chosen.

    The command takes `url` and `api_key`, and passes its other values to `sampling_options`. The
    server's own defaults stand for those left out.
    """
    command = field_flags(*_SAMPLING)(command)
    for option in reversed(_CONNECTION):
        command = option(command)
    return command


def sampling_options(model: str | None, flags: dict[str, Any]) -> SamplingOptions:
    """Return what the user set, as the client's `chat` takes it.

    Raises:
        ConfigurationError: A value is none that a server takes; the message names all of them.
    """
    mistakes: list[str] = []
    values = read_flags(given(flags), (), mistakes).general
    checked_values = checked(RequestDefaults, [values], mistakes)
    if mistakes:
        raise ConfigurationError(together(mistakes))
    options: SamplingOptions = {"model": model}
    options.update(checked_values.model_dump(mode="json", include={*values}))  # type: ignore[typeddict-item]
    return options


@contextmanager
def connected(url: str, api_key: str | None) -> Iterator[Client]:
    """Lend a client; what goes wrong with it in the block is an error of ours.

    Raises:
        UsageError: The address or the key cannot be used.
        InvalidRequestError: The server finds the request wrong, or does not know its model.
        OpenLLMError: It cannot be reached, refuses the key, or fails.
    """
    import open_llm_client

    try:
        client = open_llm_client.create(url, api_key=api_key)
    except open_llm_client.InvalidAddress as error:
        raise click.UsageError(str(error)) from None
    with client:
        try:
            yield client
        except (open_llm_client.BadRequest, open_llm_client.NotFound) as error:
            raise InvalidRequestError(explain(error, client.url)) from error
        except open_llm_client.ClientError as error:
            raise OpenLLMError(explain(error, client.url)) from error


def explain(error: ClientError, url: str) -> str:
    """Return one line that says what is wrong and how to mend it."""
    from open_llm_client import ConnectionFailed, Unauthorized

    if isinstance(error, ConnectionFailed) and error.retryable:
        return _unreachable(error, url)
    text = " ".join(str(error).split())
    if isinstance(error, Unauthorized) and "--api-key" not in text:
        return f"{text}: give the server's --api-key, or set {variable('api_key')}"
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


_CORRECT = f"correct --url, e.g. {SERVER_URL}"


def write_reply(text: str) -> None:
    """Write text of a model to stdout at once; control characters do not reach a terminal."""
    sys.stdout.write(harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
