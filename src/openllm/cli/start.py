"""`openllm start`: checks everything that can be wrong, then becomes the API process."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.options import (
    SettingsCommand,
    flags_of,
    given,
    named_models,
    parse_opts,
)
from openllm.config.fields import OPTION_MODELS

if TYPE_CHECKING:
    from openllm.config.effective import Configuration


@click.command("start", cls=SettingsCommand)
@click.argument("models", nargs=-1, metavar="[MODEL... | FILE]")
@click.option(
    "--model",
    "--model-path",
    "named",
    multiple=True,
    metavar="MODEL",
    help="The same as the argument; may be repeated.",
)
@click.option(
    "--config",
    "file",
    metavar="FILE",
    help="Configuration file, YAML or JSON [default: the one that OPEN_LLM_CONFIGURATION names].",
)
@click.option(
    "--opt",
    "opts",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any option below by its name; MODEL.NAME=VALUE is for one model.",
)
@flags_of(OPTION_MODELS)
def start(
    models: tuple[str, ...],
    named: tuple[str, ...],
    file: str | None,
    opts: tuple[str, ...],
    **flags: Any,
) -> None:
    """Serve models behind an OpenAI-compatible API.

    MODEL is `demo` (bundled, the default), a family such as `flan-t5`, a hub id, the URL of a GGUF
    file, a GGUF file or a folder with config.json and safetensors; NAME=MODEL chooses the served
    name. Several are separated by blanks or commas. What is not on this machine is downloaded
    first. FILE is a configuration, with models and options. Every option can also be set there,
    and as OPEN_LLM_<OPTION> or OPEN_LLM_<MODEL>_<OPTION>: `openllm config docs` lists them,
    `openllm config show` says what holds. Flags may be written with underscores too.
    Requests choose by "model"; without one the first answers. Once models are ready one line says
    so, with the URL.

    \b
      openllm start
      openllm start ./llama.gguf --port 8080
      openllm start demo,coder=./qwen.gguf --host 0.0.0.0 --api-key SECRET
      openllm start flan-t5,llama --device llama:gpu:0 --opt llama.top_k=3
    """
    from openllm.bento.options import read_configuration

    options = {**given(flags), **parse_opts(opts)}
    asked = named_models(models, named)
    read = partial(read_configuration, asked, options, os.environ, file=file)
    sys.exit(_serve(read(), read))


def _serve(configuration: Configuration, read: Callable[[], Configuration]) -> int:
    from openllm.bento import launch
    from openllm.bento.early_signals import EndedEarly
    from openllm.bento.options import blame
    from openllm.cli.progress import DownloadDisplay
    from openllm.errors import OpenLLMError

    _set_up_logging(configuration.server.log_level)
    try:
        with DownloadDisplay() as display:
            return launch.run(configuration, read, display)
    except EndedEarly as end:
        click.echo(end.line, err=True)
        return 0
    except OpenLLMError as error:
        error.message = blame(error, configuration.settings)
        raise


def _set_up_logging(level: str) -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("openllm").setLevel(level.upper())
