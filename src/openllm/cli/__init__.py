"""The command line: a table of commands, each loaded when it is asked for."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from openllm.cli.ending import INTERRUPTED, told
from openllm.cli.streams import open_streams

_COMMANDS = {
    "start": ("openllm.cli.start:start", "Serve models behind an OpenAI-compatible API."),
    "pull": ("openllm.cli.pull:pull", "Download models into the store."),
    "list": ("openllm.cli.list_models:list_models", "List the models in the store."),
    "show": ("openllm.cli.show:show", "Show a model of the store with its files."),
    "rm": ("openllm.cli.rm:rm", "Remove models from the store."),
    "verify": ("openllm.cli.verify:verify", "Check the files of stored models by their hashes."),
    "gc": ("openllm.cli.gc:gc", "Remove what interrupted downloads left, and keep to a quota."),
    "models": ("openllm.cli.models:models", "List the families of models known by name."),
    "fit": ("openllm.cli.fit:fit", "Say whether a model fits this machine, before the download."),
    "config": ("openllm.cli.config:config", "Show or check the settings that `start` would use."),
    "doctor": ("openllm.cli.doctor:doctor", "Say what is installed, what works here, and why not."),
    "query": ("openllm.cli.query:query", "Ask a running server one question."),
    "chat": ("openllm.cli.chat:chat", "Chat with a running server in the terminal."),
    "bench": ("openllm.cli.bench:bench", "Measure any OpenAI-compatible server."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, name = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{cmd_name} is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and name not in _COMMANDS:
            ctx.fail(_unknown(name))
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        open_streams()
        with told():
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # A terminal has just shown ^C on the line.
            click.echo("\nInterrupted." if sys.stderr.isatty() else "Interrupted.", err=True)
            ctx.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


def _unknown(name: str) -> str:
    import difflib

    close = difflib.get_close_matches(name, _COMMANDS, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(_COMMANDS)}"
    return f"no such command {name!r}; {hint}"


def _print_version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from openllm._version import __version__

        click.echo(f"openllm {__version__}")
        ctx.exit()


def _hyphenated(name: str) -> str:
    return name.replace("_", "-")


@click.group(
    cls=_LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": _hyphenated,  # Of flags, which may have underscores.
    },
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version and exit.",
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Serve open language models behind an OpenAI-compatible API.

    `openllm start` serves the bundled model at http://127.0.0.1:5000; `openllm chat` talks to it.
    """
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        ctx.color = False  # Of all commands, whose contexts are made from this one.
