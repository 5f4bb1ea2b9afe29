"""`--models-dir` of the commands that work on the store and read no other settings."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from openllm.config.models_dir import MEANING, NAMES, VARIABLE, checked_folder

Command = TypeVar("Command", bound=Callable[..., Any])


class _Flag(click.Option):
    """Its help shows the first spelling alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (f"{self.opts[0]} {self.metavar}", record[1])


def store_flag(command: Command) -> Command:
    """Decorate a command with the flag: it works on the store in that folder."""
    spellings = [f"--{each}" for name in NAMES for each in (name.replace("_", "-"), name)]
    return click.option(
        *spellings,
        cls=_Flag,
        metavar="FOLDER",
        envvar=[f"OPEN_LLM_{name.upper()}" for name in NAMES],
        help=MEANING,
        callback=_use,
        expose_value=False,
    )(command)


def _use(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        try:
            os.environ[VARIABLE] = checked_folder(value)
        except ValueError as error:
            raise click.BadParameter(f"{value!r}: {error}", ctx, parameter) from None
