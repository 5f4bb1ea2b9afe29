"""Flags made from the fields of the settings, so that an option is written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from openllm.cli.once import OnceCommand
from openllm.config.fields import (
    FIELDS,
    SECTIONS,
    choices,
    field_name,
    flags,
    is_list,
    is_size,
    names_models,
    other_names,
    plain_type,
)
from openllm.config.names import flag

Command = TypeVar("Command", bound=Callable[..., Any])

_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "FILE"}
_REPEATED = {name for name, field in FIELDS.items() if is_list(field) or names_models(field)}


class SettingOption(click.Option):
    """A flag of a field; help shows it in the section of its settings."""

    def __init__(self, *names: Any, section: str = "", **options: Any) -> None:
        super().__init__(*names, **options)
        self.section = section


class SettingsCommand(OnceCommand):
    """A command whose help has its flags by section."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.BadOptionUsage as error:
            told = error.message + self._switches(ctx, error.option_name)
            raise click.BadOptionUsage(error.option_name, told, error.ctx) from None

    def _switches(self, ctx: click.Context, name: str) -> str:
        """Say how an option is written that was wrong, if it is one of two flags."""
        for each in self.get_params(ctx):
            if each.secondary_opts and name in (*each.opts, *each.secondary_opts):
                return f" Write {each.opts[0]}, or {each.secondary_opts[0]}."
        return ""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in filter(_is_option, self.get_params(ctx)):
            if (record := parameter.get_help_record(ctx)) is not None:
                section = getattr(parameter, "section", "") or "Options"
                sections.setdefault(section, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def flags_of(models: Sequence[type[BaseModel]]) -> Callable[[Command], Command]:
    """Decorate a command with one flag for each field; flags left out are not passed on as values.

    A field's further names are parameters of their own, so that it is known which was written.
    Values stay text here; the settings check them.
    """

    def decorate(command: Command) -> Command:
        for model in reversed(models):
            for name, field in reversed(model.model_fields.items()):
                command = _flags(name, field, _section(model), _help(field))(command)
        return command

    return decorate


def field_flags(*names: str, **texts: str) -> Callable[[Command], Command]:
    """Decorate a command with the flags of single fields, in the order of `names`.

    Args:
        texts: By the names of further fields, what the help says in place of the field's own text.
    """

    def decorate(command: Command) -> Command:
        for name in reversed((*names, *texts)):
            text = texts.get(name) or _help(FIELDS[name])
            command = _flags(name, FIELDS[name], "", text)(command)
        return command

    return decorate


def named_models(models: Sequence[str], named: Sequence[str]) -> str | None:
    """Return the models that a command was given, separated by commas, or its configuration file.

    Args:
        models: The arguments.
        named: The values of `--model`.

    Raises:
        UsageError: Models are given in both ways, or a configuration stands beside others.
    """
    from openllm.config.model_list import SEPARATOR
    from openllm.config.yaml_file import is_configuration

    if models and named:
        raise click.UsageError(
            f"the models are given twice, as {models[0]!r} and --model {named[0]!r}; leave one out"
        )
    asked = models or named
    if switches := {"true", "false"} & set(map(str.lower, asked)):
        raise click.UsageError(
            f"{switches.pop()!r} is no model; what is true or false is two flags without a value,"
            " as --embeddings and --no-embeddings"
        )
    files = [each for each in asked if is_configuration(each)]
    if files and len(asked) > 1:
        raise click.UsageError(
            f"{files[0]!r} is a configuration, which stands alone; name its models in front of"
            f" --config {files[0]}"
        )
    return SEPARATOR.join(asked) if asked else None


def given(values: dict[str, Any]) -> dict[str, Any]:
    """Return the flags that the user gave."""
    return {name: value for name, value in values.items() if value is not None and value != ()}


def parse_opts(opts: Iterable[str]) -> dict[str, Any]:
    """Read the values of `--opt`, each NAME=VALUE or MODEL.NAME=VALUE.

    Returns:
        Values by names as `openllm.config.flags` has them.

    Raises:
        UsageError: One is neither, or is given twice.
    """
    parsed: dict[str, Any] = {}
    for opt in opts:
        spelled, equals, value = opt.partition("=")
        model, dot, last = spelled.strip().rpartition(".")
        if not equals or not last or (dot and not model):
            raise click.UsageError(f"--opt {opt!r} is not NAME=VALUE, nor MODEL.NAME=VALUE")
        key = f"{model}.{last.replace('-', '_')}"
        name = field_name(last)
        if name in _REPEATED and not (dot and not is_list(FIELDS[name])):
            parsed[key] = (*parsed.get(key, ()), value)
        elif key in parsed:
            raise click.UsageError(f"--opt {key.removeprefix('.')} is given twice; leave one out")
        else:
            parsed[key] = value
    return parsed


def _is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


def _section(model: type[BaseModel]) -> str:
    return next((title for title, each in SECTIONS.items() if each is model), "Options")


def _flags(name: str, field: FieldInfo, section: str, text: str) -> Callable[[Command], Command]:
    options: dict[str, Any] = {"help": text, "cls": SettingOption, "section": section}

    def decorate(command: Command) -> Command:
        for other in other_names(name):
            command = _flag(other, field, hidden=True, **options)(command)
        return _flag(name, field, **options)(command)

    return decorate


def _flag(name: str, field: FieldInfo, **options: Any) -> Callable[[Command], Command]:
    kind = plain_type(field.annotation)
    if kind is bool:
        return click.option("/".join(flags(name)), name, default=None, **options)
    several = choices(field.annotation)
    shown = "SIZE" if is_size(field) else _METAVARS.get(kind, "VALUE")
    return click.option(
        flag(name),
        name,
        multiple=is_list(field) or names_models(field),
        metavar=f"[{'|'.join(several)}]" if several else shown,
        **options,
    )


def _help(field: FieldInfo) -> str:
    return (field.description or "") + _shown_default(field)


def _shown_default(field: FieldInfo) -> str:
    default = field.default
    if default is None or default == () or isinstance(default, bool):
        return ""
    return f" [default: {default}]"
