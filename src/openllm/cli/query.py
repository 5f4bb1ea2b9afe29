"""`openllm query`: one question to a running server, its answer on stdout."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.ending import INTERRUPTED
from openllm.cli.remote import connected, remote_options, sampling_options, write_reply
from openllm.cli.streams import as_text

if TYPE_CHECKING:
    from open_llm_client import Client
    from open_llm_client.protocol import SamplingOptions


@click.command("query")
@click.argument("question", nargs=-1)
@remote_options
@click.option("--no-stream", is_flag=True, help="Write the answer when it is whole.")
@click.option("--json", "as_json", is_flag=True, help="Write the server's JSON, on one line.")
def query(
    question: tuple[str, ...],
    url: str,
    api_key: str | None,
    model: str | None,
    no_stream: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask a running server one question.

    Without QUESTION, or with `-`, it is read from standard input. Ctrl-C stops the server's work.

    \b
      openllm query "What is the capital of France?"
      openllm query --temperature 0 --json < question.txt
    """
    prompt = _question(question)
    options = sampling_options(model, sampling)
    with connected(url, api_key) as client:
        try:
            if no_stream or as_json:
                _write_whole(client, prompt, options, as_json)
            else:
                _write_stream(client, prompt, options)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


def _question(words: tuple[str, ...]) -> str:
    text = " ".join(words)
    if text in ("", "-"):
        if sys.stdin.isatty():
            raise click.UsageError('no question: write it like `openllm query "Who are you?"`')
        text = sys.stdin.buffer.read().decode(errors="surrogateescape").rstrip("\n")
    if not text.strip():
        raise click.UsageError("the question is empty")
    return as_text(text, "the question")


def _write_whole(client: Client, prompt: str, options: SamplingOptions, as_json: bool) -> None:
    result = client.chat(prompt, **options)
    write_reply(f"{result.to_json() if as_json else result.message}\n")


def _write_stream(client: Client, prompt: str, options: SamplingOptions) -> None:
    with client.chat(prompt, stream=True, **options) as pieces:
        try:
            for piece in pieces:
                write_reply(piece)
        finally:
            if pieces.message and not pieces.message.endswith("\n"):
                write_reply("\n")
