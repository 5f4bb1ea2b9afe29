"""`openllm start`: checks everything that can be wrong, then becomes the API process."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from openllm.bento.options import OPTION_MODELS, flag
from openllm.cli.options import flags_of, given

if TYPE_CHECKING:
    from openllm.errors import OpenLLMError


@click.command("start")
@click.argument("models", required=False, default="demo", metavar="[MODEL[,MODEL...]]")
@flags_of(OPTION_MODELS)
@click.option(
    "--opt", "opts", multiple=True, metavar="NAME=VALUE", help="Any of these options by its name."
)
@click.option(
    "--log-level",
    default="info",
    show_default=True,
    metavar="LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe log line shown.",
)
def start(models: str, opts: tuple[str, ...], log_level: str, **flags: Any) -> None:
    """Serve models behind an OpenAI-compatible API.

    MODEL is `demo` (bundled, the default), a GGUF file or a folder with config.json and
    safetensors; NAME=PATH chooses the served name.
    Requests choose by "model"; without one the first answers. Once models are ready one line says
    so, with the URL. The exit status is 0 after a signal, 2 if a setting or a file is wrong.

    \b
      openllm start
      openllm start ./llama.gguf --port 8080
      openllm start demo,coder=./qwen.gguf --host 0.0.0.0 --api-key SECRET
    """
    from openllm.bento import launch
    from openllm.errors import ConfigurationError, OpenLLMError

    _set_up_logging(log_level)
    try:
        sys.exit(launch.run(models, {**given(flags), **_parse_opts(opts)}))
    except OpenLLMError as error:
        click.echo(f"Error: {_with_flag(error)}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)


def _with_flag(error: OpenLLMError) -> str:
    """Return the message, with the flag that is to blame before it if it names none."""
    option = error.param or ""
    known = any(option in model.model_fields for model in OPTION_MODELS)
    named = flag(option) in error.message
    return f"{flag(option)}: {error.message}" if known and not named else error.message


def _parse_opts(opts: tuple[str, ...]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for opt in opts:
        name, equals, value = opt.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--opt {opt!r} is not NAME=VALUE")
        name = name.replace("-", "_")
        parsed[name] = (*parsed.get(name, ()), value) if name in _REPEATED else value
    return parsed


_REPEATED = {
    name
    for model in OPTION_MODELS
    for name, field in model.model_fields.items()
    if field.default == ()
}


def _set_up_logging(level: str) -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("openllm").setLevel(level.upper())
