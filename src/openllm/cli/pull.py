"""`openllm pull`: downloads models into the store."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.ending import INTERRUPTED
from openllm.cli.once import OnceCommand
from openllm.cli.options import field_flags, flags_of, given
from openllm.config.download import DownloadOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openllm.config.effective import Entry
    from openllm.models.pull import Progress
    from openllm.types import LocalModel

_INTERRUPTED = "Interrupted: what has been downloaded is kept; the same command goes on from there."


@click.command("pull", cls=OnceCommand)
@click.argument("names", nargs=-1, required=True, metavar="MODEL...")
@field_flags("backend", "tokenizer", "tokenizer_revision", "lora", "trust_remote_code")
@flags_of((DownloadOptions,))
@field_flags("models_dir")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object a line on stdout.")
def pull(names: tuple[str, ...], as_json: bool, **flags: Any) -> None:
    """Download models into the store, and print their tags.

    MODEL is a family (`flan-t5`, `llama:7b`), a hub id (`org/name`, `org/name@revision`,
    `org/name:file.gguf`, `org/name:Q4_K_M`) or the URL of a GGUF file. All are looked up before
    the first is downloaded, with a warning of those that do not fit the memory that is free, or
    that need an engine which is not installed here; what is in the store already is not asked for.
    What `openllm start` would refuse, as a model without a tokenizer where none is given, is not
    downloaded. Adapters that --lora names are downloaded before their model. What an interrupted
    download has left is used by the next.

    \b
      openllm pull org/name
      openllm pull flan-t5 org/other:Q4_K_M --download-rate 10000000
    """
    from openllm.errors import OpenLLMError

    options = given(flags)
    try:
        if as_json:
            _pull_all(names, options, _json_progress(), _write_event)
        else:
            _pull_shown(names, options)
    except OpenLLMError as error:
        if as_json:
            fields = {"message": error.message, "param": error.param, "code": error.code}
            _write_line({"error": fields})
        raise
    except KeyboardInterrupt:
        click.echo(_INTERRUPTED, err=True)
        sys.exit(INTERRUPTED)


def _pull_shown(names: Sequence[str], options: dict[str, Any]) -> None:
    from openllm.cli.progress import DownloadDisplay

    with DownloadDisplay() as display:
        _pull_all(names, options, display, _write_tag)


def _pull_all(
    names: Sequence[str],
    options: dict[str, Any],
    on_progress: Callable[[Progress], None],
    on_stored: Callable[[str, LocalModel], None],
) -> None:
    from openllm.bento.checks import fetch_each
    from openllm.bento.options import read_configuration
    from openllm.config.model_list import SEPARATOR
    from openllm.models.offers import asked_once

    configuration = read_configuration(SEPARATOR.join(names), options, os.environ)
    with asked_once():
        _look_up(configuration.entries)
        models = fetch_each(configuration, on_progress)
        for entry, model in zip(configuration.entries, models, strict=True):
            on_stored(entry.text, model)


def _look_up(entries: Sequence[Entry]) -> None:
    """Ask for each model and adapter that is not here, and warn of what could not be served here.

    A wrong name then costs no download of another model.
    """
    from openllm.bento.ahead import doubts
    from openllm.llm.model_files import model_here
    from openllm.llm.parts import adapters_ahead
    from openllm.models.ref import parse_ref

    here = [model_here(parse_ref(entry.text), entry.config.load) for entry in entries]
    for entry in entries:
        adapters_ahead(entry.config.load.lora, entry.download)
    for entry in (entry for entry, model in zip(entries, here, strict=True) if model is None):
        for doubt in doubts(entry):
            click.echo(f"Warning: {doubt}", err=True)


def _write_tag(_: str, model: LocalModel) -> None:
    """Print the tag; what is in no store, as the bundled model, is on this machine all the same."""
    click.echo(model.tag or model.path)


def _write_event(asked: str, model: LocalModel) -> None:
    from openllm.server.pull_events import stored_event

    _write_line({**stored_event(asked, model), "path": model.path})


def _json_progress() -> Callable[[Progress], None]:
    from openllm.server.pull_events import Pace, progress_event

    pace = Pace()

    def write(progress: Progress) -> None:
        if pace.admits(progress):
            _write_line(progress_event(progress))

    return write


def _write_line(event: dict[str, Any]) -> None:
    # One write a line: downloads report from several threads.
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()
