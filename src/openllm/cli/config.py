"""`openllm config`: what `start` would use, whether a file is right, and what may stand in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.options import SettingsCommand, given, named_models, parse_opts
from openllm.cli.start import start

if TYPE_CHECKING:
    from openllm.config.effective import Configuration, Setting

_MASK = "********"


@click.group("config")
def config() -> None:
    """Show or check the settings that `start` would use.

    They come from flags, OPEN_LLM_<MODEL>_<OPTION>, OPEN_LLM_<OPTION>, the configuration file, and
    what a model's family brings, in this order.
    """


@config.command("show", cls=SettingsCommand, params=[*start.params])
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(
    models: tuple[str, ...],
    named: tuple[str, ...],
    file: str | None,
    opts: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Print every setting in effect and where it was given; secrets are masked.

    Takes what `openllm start` takes. What other variables give, such as HF_TOKEN, is shown with
    their names.
    """
    from openllm.bento.options import read_configuration

    asked = named_models(models, named)
    options = {**given(flags), **parse_opts(opts)}
    found = _checked(read_configuration(asked, options, os.environ, file=file))
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        _print_tables(found)


@config.command("check")
@click.argument("file", required=False)
def check(file: str | None) -> None:
    """Say all that is wrong with a configuration file, and with what it names.

    Without FILE the environment and the file of OPEN_LLM_CONFIGURATION are checked. Nothing is
    loaded or downloaded.
    """
    from openllm.bento.checks import check as check_all
    from openllm.bento.options import read_configuration
    from openllm.models.ref import shown_source

    found = read_configuration(None, {}, {} if file else os.environ, file=file)
    missing = check_all(found).missing
    names = ", ".join(each.name for each in found.entries)
    click.echo(f"No mistake was found; `openllm start` would serve {names}.")
    if missing:
        texts = ", ".join(shown_source(each.text) for each in missing)
        click.echo(f"To be downloaded, or what goes with it: {texts}.")


@config.command("schema")
def schema() -> None:
    """Print the JSON schema of the configuration file, for editors."""
    from openllm.config.schema import file_schema

    click.echo(json.dumps(file_schema(), indent=2))


@config.command("docs")
def docs() -> None:
    """Print every option with its flag, its variable and its meaning, as Markdown tables."""
    from openllm.config.schema import docs_tables

    click.echo(docs_tables())


def _checked(found: Configuration) -> Configuration:
    """Return the configuration with what other variables give; refuse what `start` would."""
    from openllm.bento.checks import wrong_models
    from openllm.config.explain import together
    from openllm.config.outside import with_outside
    from openllm.errors import ConfigurationError
    from openllm.models.store import home

    if mistakes := wrong_models(found.entries):
        raise ConfigurationError(together(mistakes))
    return with_outside(found, str(home()))


def _document(found: Configuration) -> dict[str, Any]:
    from openllm.models.ref import shown_source

    return {
        "server": dict(_json_settings(found.settings)),
        "models": {
            each.name: {
                "model": shown_source(each.text),
                "settings": dict(_json_settings(each.settings)),
            }
            for each in found.entries
        },
    }


def _json_settings(settings: Mapping[str, Setting]) -> Iterator[tuple[str, Any]]:
    from pydantic_core import to_jsonable_python

    for name, setting in settings.items():
        value = _MASK if _hidden(name, setting) else to_jsonable_python(_plain(setting.value))
        yield name, {"value": value, "origin": setting.origin}


def _print_tables(found: Configuration) -> None:
    from openllm.models.ref import shown_source

    _print_table("server", found.settings)
    for each in found.entries:
        click.echo()
        _print_table(f"model {each.name} ({shown_source(each.text)})", each.settings)


def _print_table(title: str, settings: Mapping[str, Setting]) -> None:
    rows = [(name, _shown(name, each), each.origin) for name, each in settings.items()]
    names = max(len(row[0]) for row in rows)
    values = min(40, max(len(row[1]) for row in rows))
    click.echo(title)
    for name, value, origin in rows:
        click.echo(f"  {name:{names}}  {value:{values}}  {origin}")


def _shown(name: str, setting: Setting) -> str:
    if _hidden(name, setting):
        return _MASK
    value = _plain(setting.value)
    if value is None or value == ():
        return "-"
    if isinstance(value, tuple):
        return ", ".join(map(repr, value))
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) and not value.isprintable() else str(value)


def _plain(value: Any) -> Any:
    """Return a value as it is shown: what is in a list may be a URL, whose query may be secret."""
    from openllm.models.ref import shown_source

    if not isinstance(value, tuple):
        return value
    return tuple(shown_source(each) if isinstance(each, str) else each for each in value)


def _hidden(name: str, setting: Setting) -> bool:
    from openllm.config.fields import FIELDS, is_secret

    return is_secret(FIELDS[name]) and setting.value is not None and setting.value != ()
