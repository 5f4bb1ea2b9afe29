"""`openllm chat`: a conversation with a running server, in the terminal or in a script."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.ending import INTERRUPTED
from openllm.cli.remote import connected, explain, remote_options, sampling_options
from openllm.cli.streams import as_text
from openllm.errors import OpenLLMError

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
    from openllm.cli.chat_session import ChatSession
    from openllm.cli.line_input import LineInput

    options = sampling_options(model, sampling)
    with connected(url, api_key) as client, LineInput() as lines:
        session = ChatSession(client, options, system=as_text(system, "--system"), stats=stats)
        _greet(client, session, lines)
        while not session.over:
            _take_one(session, lines, client.url)


def _greet(client: Client, session: ChatSession, lines: LineInput) -> None:
    """Learn at once, not after the first message, that there is no server or no such model."""
    from openllm.cli.chat_session import note

    served = [model.id for model in client.models()]
    if session.options.get("model"):
        session.take(f"/model {session.options['model']}")
    elif lines.interactive:
        first = served[0] if served else "no model yet"
        note(f"Talking to {first} at {client.url}. /help lists commands, Ctrl-D leaves.")


def _take_one(session: ChatSession, lines: LineInput, url: str) -> None:
    """Take one message; a script, unlike a person, ends at its first error."""
    from open_llm_client import ClientError
    from openllm.cli.chat_session import note

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
    except (ClientError, OpenLLMError) as error:
        if not lines.interactive:
            raise
        note(explain(error, url) if isinstance(error, ClientError) else error.message)
