"""`openllm bench`: load on any OpenAI-compatible server, and the figures that come of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click

from openllm.bench.settings import (
    GOODPUT_METRICS,
    MAX_CONCURRENCY,
    MAX_DURATION,
    MAX_REQUESTS,
    BenchSettings,
    Endpoint,
    LengthRange,
)
from openllm.cli.ending import INTERRUPTED
from openllm.cli.remote import SERVER_URL, key_option
from openllm.config.names import COMPARE_API_KEY, flag
from openllm.errors import OpenLLMError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from openllm.bench.run import Run

Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_URL = f"{SERVER_URL}/v1"
ROUNDS_TO_COMPARE = 4
_FILE = click.Path(dir_okay=False, writable=True, path_type=Path)
_DEFAULTS = BenchSettings()


def _setting(
    name: str, text: str, otherwise: str = "", **options: Any
) -> Callable[[Command], Command]:
    """Decorate a command with the flag of a setting, whose default is that of `BenchSettings`.

    Args:
        text: What the flag is for.
        otherwise: What help says of another default that depends on other flags.
        options: As `click.option` takes them.
    """
    default = getattr(_DEFAULTS, name)
    if not options.get("is_flag") and default not in (None, {}):
        text += f"  [default: {default}{otherwise}]"
    return click.option(flag(name), name, default=None, help=text, **options)


def _lengths(ctx: click.Context, param: click.Parameter, value: str | None) -> LengthRange | None:
    """Read a number of tokens, or LOW:HIGH."""
    try:
        return None if value is None else LengthRange.of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _limits(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Read METRIC:MS limits."""
    limits: dict[str, float] = {}
    for value in values:
        metric, _, text = value.partition(":")
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        if metric not in GOODPUT_METRICS or not 0.0 < limit < inf:
            names = ", ".join(GOODPUT_METRICS)
            raise click.BadParameter(f"{value!r} is not METRIC:MS, as ttft:200; metrics: {names}")
        if metric in limits:
            raise click.BadParameter(f"{metric!r} is given twice; give one limit for each metric")
        limits[metric] = limit
    return limits


@click.command("bench")
@click.argument("url", required=False, metavar="[URL]")
@click.option(
    "--url",
    "url_option",
    metavar="URL",
    help=f"The same, as other commands take it  [default: {DEFAULT_URL}]",
)
@click.option("--model", default="", help="Model to ask for  [default: the first listed]")
@_setting(
    "endpoint", "Route to drive; replies are streamed.", type=click.Choice(get_args(Endpoint))
)
@_setting(
    "concurrency",
    "Requests in flight at any time (closed loop).",
    type=click.IntRange(1, MAX_CONCURRENCY),
)
@_setting(
    "rate",
    "Requests per second, whether answered or not (open loop).",
    type=click.FloatRange(0, 100_000, min_open=True),
)
@_setting(
    "burstiness",
    "With --rate: 1 is Poisson, less is burstier, more is steadier.",
    type=click.FloatRange(0.01, 1000),
)
@_setting(
    "requests",
    "Requests of a round.",
    f", or up to {MAX_REQUESTS} with --duration",
    type=click.IntRange(1, MAX_REQUESTS),
)
@_setting(
    "duration",
    "Seconds during which a round sends requests; replies under way are awaited.",
    type=click.FloatRange(0, MAX_DURATION, min_open=True),
)
@_setting("prompt_tokens", "Approximate prompt length.", metavar="N|LOW:HIGH", callback=_lengths)
@_setting("output_tokens", "Most tokens of a reply.", metavar="N|LOW:HIGH", callback=_lengths)
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Prompts, one a line; a .jsonl file has them in "prompt".',
)
@_setting(
    "warmup",
    "Requests before measuring; the first two fit generated prompts to the tokenizer.",
    type=click.IntRange(0, 10_000),
)
@_setting("seed", "Same seed, same requests.", type=int)
@_setting("ignore_eos", "Ask for replies of full length.", is_flag=True)
@_setting("temperature", "Sampling temperature; 0 is greedy.", type=click.FloatRange(0, 2))
@_setting(
    "goodput",
    "Limit in ms that a good reply keeps, as ttft:200, tpot:50, e2el:2000; repeatable.",
    metavar="METRIC:MS",
    callback=_limits,
    multiple=True,
)
@_setting("keep_alive", "Use connections again  [default: one a request]", is_flag=True)
@_setting(
    "timeout",
    "Seconds after which a request counts as failed.",
    type=click.FloatRange(0, MAX_DURATION, min_open=True),
)
@key_option
@click.option("--compare", metavar="URL", help="Second server, loaded in turns with the first.")
@click.option("--compare-model", default="", help="Its model  [default: --model, or its first]")
@click.option(
    "--compare-api-key",
    envvar=COMPARE_API_KEY,
    show_envvar=True,
    help="Its key; the first server's key is never sent to it.",
)
@_setting(
    "rounds",
    "Repetitions of the load.",
    f", or {ROUNDS_TO_COMPARE} with --compare",
    type=click.IntRange(1, 1000),
)
@click.option("--json", "json_file", type=_FILE, help="Write JSON here.")
@click.option("--plot", "plot_file", type=_FILE, help="Write a PNG here.")
def bench(**options: Any) -> None:
    """Measure an OpenAI-compatible server at URL, the base URL that usually ends in /v1.

    Reports time to first token, latency between tokens, end-to-end latency, throughput, goodput
    and errors. Ctrl-C reports what was measured so far.
    """
    _refuse_contradictions(options)
    options["url"] = options["url"] or options["url_option"] or DEFAULT_URL
    run = _prepare(options)
    _measure(run)
    if any(side.records for side in run.sides):
        _report(run, options["json_file"], options["plot_file"])
    if run.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    _fail_if_nothing_worked(run)


def _refuse_contradictions(options: dict[str, Any]) -> None:
    for first, second, why in (
        ("rate", "concurrency", "an open loop has no fixed number in flight"),
        ("prompt_file", "prompt_tokens", "the file's prompts have a length of their own"),
    ):
        if options[first] is not None and options[second] is not None:
            raise click.UsageError(f"give {flag(first)} or {flag(second)}: {why}")
    if options["url"] is not None and options["url_option"] is not None:
        raise click.UsageError("give URL or --url, not both; --compare takes a second server")
    for name, value in options.items():
        if isinstance(value, float) and not isfinite(value):
            raise click.UsageError(f"{flag(name)} {value} is not a number to measure with")
    for dependent, needed in (
        ("burstiness", "rate"),
        ("compare_model", "compare"),
        ("compare_api_key", "compare"),
    ):
        source = click.get_current_context().get_parameter_source(dependent)
        given = source is click.core.ParameterSource.COMMANDLINE
        if given and options[needed] is None:
            raise click.UsageError(f"{flag(dependent)} needs {flag(needed)}")
    for path in filter(None, (options["json_file"], options["plot_file"])):
        _refuse_place(path)


def _refuse_place(path: Path) -> None:
    """Refuse a file that could not be written after a long run."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise click.UsageError(f"the folder of {str(path)!r} does not exist; create it first")
    if not path.exists() and not os.access(folder, os.W_OK):
        raise click.UsageError(f"the folder of {str(path)!r} cannot be written; choose another")


def _prepare(options: dict[str, Any]) -> Run:
    from openllm.bench.http_client import parse_target
    from openllm.bench.plot import require_matplotlib
    from openllm.bench.run import Run, Side

    if options["plot_file"] is not None:
        require_matplotlib()
    sides = [Side("A", parse_target(options["url"], options["api_key"]), options["model"])]
    if options["compare"] is not None:
        other = parse_target(options["compare"], options["compare_api_key"])
        sides.append(Side("B", other, options["compare_model"] or options["model"]))
    return Run(_settings(options), sides)


def _settings(options: dict[str, Any]) -> BenchSettings:
    from openllm.bench.workload import read_prompts

    fields = BenchSettings.__struct_fields__
    chosen = {name: options[name] for name in fields if options.get(name) is not None}
    if options["rate"] is not None:
        chosen["concurrency"] = None
    if options["duration"] is not None:
        chosen.setdefault("requests", MAX_REQUESTS)
    if options["compare"] is not None:
        chosen.setdefault("rounds", ROUNDS_TO_COMPARE)
    if options["prompt_file"] is not None:
        chosen["prompts"] = read_prompts(options["prompt_file"])
    return BenchSettings(**chosen)


def _measure(run: Run) -> None:
    from openllm.bench.run import run_bench

    try:
        _run_async(run_bench(run, partial(click.echo, err=True)))
    except KeyboardInterrupt:
        run.interrupted = True
        if not any(side.records for side in run.sides):
            click.echo("Error: interrupted before any reply was measured", err=True)


def _run_async(main: Coroutine[Any, Any, None]) -> None:
    """Run on uvloop where there is one: less CPU for us is more for the server beside us."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        asyncio.run(main)
    else:
        uvloop.run(main)


def _report(run: Run, json_file: Path | None, plot_file: Path | None) -> None:
    from rich.console import Console

    from openllm.bench.document import write_document
    from openllm.bench.plot import write_plot
    from openllm.bench.table import print_report

    print_report(run, Console())
    for write, path in ((write_document, json_file), (write_plot, plot_file)):
        if path is not None:
            try:
                write(run, path)
            except OSError as error:
                raise OpenLLMError(f"cannot write {path}: {error.strerror}") from None


def _fail_if_nothing_worked(run: Run) -> None:
    from openllm.bench.run import failure

    for side in run.sides:
        if not side.records:
            raise OpenLLMError(f"no request was sent to {side.target.url}")
        if all(record.error for record in side.records):
            raise failure(f"no request to {side.target.url} succeeded", side.records[0])
