"""`openllm start`: checks everything that can be wrong, then becomes the API process."""

from __future__ import annotations

import sys
from typing import Any

import click

from openllm.cli.options import flags_of, given
from openllm.config.model import LoadOptions, RequestDefaults
from openllm.config.server import ServerSettings


@click.command("start")
@click.argument("models", required=False, default="demo", metavar="[MODEL[,MODEL...]]")
@flags_of([ServerSettings, LoadOptions, RequestDefaults])
@click.option(
    "--opt", "opts", multiple=True, metavar="NAME=VALUE", help="Any of these options by its name."
)
@click.option(
    "--log-level",
    default="warning",
    show_default=True,
    metavar="LEVEL",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Least severe log line shown.",
)
def start(models: str, opts: tuple[str, ...], log_level: str, **flags: Any) -> None:
    """Serve models behind an OpenAI-compatible API.

    MODEL is `demo` (bundled, the default) or a GGUF file; NAME=FILE chooses the served name.
    Requests choose by "model"; without one the first answers.

    \b
      openllm start
      openllm start ./llama.gguf --port 8080
      openllm start demo,coder=./qwen.gguf --host 0.0.0.0 --api-key SECRET
    """
    from openllm.bento.launch import serve
    from openllm.bento.options import split_options
    from openllm.errors import ConfigurationError
    from openllm.models.ref import check_files, parse_models

    _set_up_logging(log_level)
    try:
        settings, config = split_options({**given(flags), **_parse_opts(opts)})
        chosen = parse_models(models)
        for model in chosen:
            check_files(model)
        status = serve(chosen, {model.name: config for model in chosen}, settings)
    except ConfigurationError as error:
        click.echo(f"Error: {error.message}", err=True)
        sys.exit(2)
    sys.exit(status)


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
    for model in (ServerSettings, RequestDefaults)
    for name, field in model.model_fields.items()
    if field.default == ()
}


def _set_up_logging(level: str) -> None:
    import logging

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("openllm").setLevel(level.upper())
