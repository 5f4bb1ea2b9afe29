"""`openllm chat`: a conversation with a running server, in the terminal or in a script."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from openllm.cli import INTERRUPTED
from openllm.cli.remote import connect, explain, remote_options, sampling_options

if TYPE_CHECKING:
    from open_llm_client import Client
    from openllm.cli.chat_session import ChatSession
    from openllm.cli.line_input import LineInput


@click.command("chat")
@remote_options
@click.option("--system", default="", metavar="TEXT", help="Instruction for the model.")
@click.option("--stats", is_flag=True, help="Show the speed of each reply.")
def chat(
    url: str,
    api_key: str | None,
    model: str | None,
    system: str,
    stats: bool,
    **sampling: Any,
) -> None:
    """Chat with a running server; /help inside lists the commands.

    Ctrl-C stops a reply, Ctrl-D leaves. From a pipe or a file, each line is a message, and stdout
    gets the replies alone.
    """
    from open_llm_client import ClientError
    from openllm.cli.chat_session import ChatSession, CommandError
    from openllm.cli.line_input import LineInput

    with connect(url, api_key) as client:
        session = ChatSession(client, sampling_options(model, sampling), system=system, stats=stats)
        try:
            with LineInput() as lines:
                _greet(client, session, lines)
                _converse(session, lines, client.url)
        except (ClientError, CommandError) as error:
            click.echo(f"Error: {_one_line(error, client.url)}", err=True)
            sys.exit(1)


def _greet(client: Client, session: ChatSession, lines: LineInput) -> None:
    """Learn at once, not after the first message, that there is no server or no such model."""
    from openllm.cli.chat_session import note

    served = [model.id for model in client.models()]
    if session.options.get("model"):
        session.take(f"/model {session.options['model']}")
    elif lines.interactive:
        note(f"Talking to {served[0]} at {client.url}. /help lists commands, Ctrl-D leaves.")


def _converse(session: ChatSession, lines: LineInput, url: str) -> None:
    while not session.over:
        _take_one(session, lines, url)


def _take_one(session: ChatSession, lines: LineInput, url: str) -> None:
    """Take one message; a script, unlike a person, ends at its first error."""
    from open_llm_client import ClientError
    from openllm.cli.chat_session import CommandError, note

    try:
        session.take(lines.read())
    except EOFError:
        session.over = True
        if lines.interactive:
            note("")
    except KeyboardInterrupt:
        if not lines.interactive:
            sys.exit(INTERRUPTED)
        note("\nCtrl-D or /exit leaves.")
    except (ClientError, CommandError) as error:
        if not lines.interactive:
            raise
        note(_one_line(error, url))


def _one_line(error: Exception, url: str) -> str:
    from open_llm_client import ClientError

    return explain(error, url) if isinstance(error, ClientError) else str(error)
