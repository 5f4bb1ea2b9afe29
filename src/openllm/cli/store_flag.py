"""`--models-dir` of the commands that work on the store and read no other settings.

They start without the library that checks settings, so what they take of those is written here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from openllm.config.models_dir import MEANING, NAMES, VARIABLE, checked_folder
from openllm.config.names import flag, variable

Command = TypeVar("Command", bound=Callable[..., Any])


class _Flag(click.Option):
    """Its help shows the first name alone."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        record = super().get_help_record(ctx)
        return record and (f"{self.opts[0]} {self.metavar}", record[1])


def setting_flag(*names: str, **options: Any) -> Callable[[Command], Command]:
    """Decorate a command with the flag of a setting, by all its names and with its variables.

    Args:
        names: The field's own name, as Python writes it, and its other names.
        options: As `click.option` takes them.
    """
    variables = [*map(variable, names)]
    return click.option(*map(flag, names), cls=_Flag, envvar=variables, **options)


def folder_flag(**options: Any) -> Callable[[Command], Command]:
    """Decorate a command with `--models-dir`: it works on the store in that folder.

    Args:
        options: As `click.option` takes them.
    """
    return setting_flag(*NAMES, metavar="FOLDER", help=MEANING, callback=_use, **options)


def store_flag(command: Command) -> Command:
    """Decorate with `folder_flag` a command that need not know the folder itself."""
    return folder_flag(expose_value=False)(command)


def _use(ctx: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        folder = os.environ[VARIABLE] = checked_folder(value)
    except ValueError as error:
        raise refusal(ctx, parameter, value, error) from None
    return folder


def refusal(
    ctx: click.Context, parameter: click.Parameter, value: str, error: ValueError
) -> click.BadParameter:
    """Return what to raise for a wrong value; it names the variable if that had it."""
    hint = None
    if parameter.name and ctx.get_parameter_source(parameter.name) == ParameterSource.ENVIRONMENT:
        hint = next((name for name in _variables(parameter) if os.environ.get(name)), None)
    return click.BadParameter(f"{value!r}: {error}", ctx, parameter, hint)


def _variables(parameter: click.Parameter) -> Sequence[str]:
    found = parameter.envvar
    return [found] if isinstance(found, str) else found or ()
