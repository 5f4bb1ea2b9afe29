"""`openllm bench`: load on any OpenAI-compatible server, and the figures that come of it."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openllm.cli import INTERRUPTED
from openllm.errors import ConfigurationError, OpenLLMError

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from openllm.bench.run import Run
    from openllm.bench.settings import LengthRange

DEFAULT_URL = "http://127.0.0.1:5000/v1"
_FILE = click.Path(dir_okay=False, path_type=Path)
_SAME_NAME = (
    *("endpoint", "rate", "burstiness", "duration", "prompt_tokens", "output_tokens", "warmup"),
    *("seed", "ignore_eos", "temperature", "goodput", "keep_alive", "timeout"),
)
"""Options that are settings of the same name; one that is not given keeps the setting's default."""


def _lengths(ctx: click.Context, param: click.Parameter, value: str | None) -> LengthRange | None:
    """Read a number of tokens, or LOW:HIGH."""
    from openllm.bench.settings import LengthRange

    try:
        return None if value is None else LengthRange.of(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _limits(
    ctx: click.Context, param: click.Parameter, values: tuple[str, ...]
) -> dict[str, float]:
    """Read METRIC:MS limits."""
    from openllm.bench.settings import GOODPUT_METRICS

    limits: dict[str, float] = {}
    for value in values:
        metric, _, text = value.partition(":")
        try:
            limit = float(text)
        except ValueError:
            limit = -1.0
        if metric not in GOODPUT_METRICS or not 0.0 < limit < float("inf"):
            names = ", ".join(GOODPUT_METRICS)
            raise click.BadParameter(f"{value!r} is not METRIC:MS, as ttft:200; metrics: {names}")
        if metric in limits:
            raise click.BadParameter(f"{metric!r} is given twice; give one limit for each metric")
        limits[metric] = limit
    return limits


@click.command("bench", short_help="Measure any OpenAI-compatible server.")
@click.argument("url", required=False, metavar="[URL]")
@click.option("--url", "url_option", metavar="URL", help="The same, as other commands take it.")
@click.option("--model", default="", help="Model to ask for  [default: the first listed]")
@click.option(
    "--endpoint",
    type=click.Choice(["chat", "completions"]),
    default="chat",
    show_default=True,
    help="Route to drive; replies are streamed.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 10_000),
    help="Requests in flight at any time (closed loop).  [default: 8]",
)
@click.option(
    "--rate",
    type=click.FloatRange(0, 100_000, min_open=True),
    help="Requests per second, whether answered or not (open loop).",
)
@click.option(
    "--burstiness",
    type=click.FloatRange(0.01, 1000),
    help="With --rate: 1 is Poisson, less is burstier, more is steadier.  [default: 1]",
)
@click.option(
    "--requests",
    type=click.IntRange(1, 100_000),
    help="Requests of a round.  [default: 64, or up to 100000 with --duration]",
)
@click.option(
    "--duration",
    type=click.FloatRange(0, 86_400, min_open=True),
    help="Seconds during which a round sends requests; replies under way are awaited.",
)
@click.option(
    "--prompt-tokens",
    metavar="N|LOW:HIGH",
    callback=_lengths,
    help="Approximate prompt length.  [default: 32]",
)
@click.option(
    "--output-tokens",
    metavar="N|LOW:HIGH",
    callback=_lengths,
    default="64",
    show_default=True,
    help="Most tokens of a reply (max_tokens).",
)
@click.option(
    "--prompt-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='Prompts, one a line; a .jsonl file has them in "prompt".',
)
@click.option(
    "--warmup",
    type=click.IntRange(0, 10_000),
    default=2,
    show_default=True,
    help="Requests before measuring; the first two fit generated prompts to the tokenizer.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same requests.")
@click.option("--ignore-eos", is_flag=True, help="Ask for replies of full length.")
@click.option(
    "--temperature",
    type=click.FloatRange(0, 2),
    default=0.0,
    show_default=True,
    help="Sampling temperature; 0 is greedy.",
)
@click.option(
    "--goodput",
    metavar="METRIC:MS",
    callback=_limits,
    multiple=True,
    help="Limit in ms that a good reply keeps, as ttft:200, tpot:50, e2el:2000; repeatable.",
)
@click.option("--keep-alive", is_flag=True, help="Use connections again  [default: one a request]")
@click.option(
    "--timeout",
    type=click.FloatRange(0, 86_400, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds after which a request counts as failed.",
)
@click.option("--api-key", envvar="OPEN_LLM_API_KEY", show_envvar=True, help="Key of the server.")
@click.option("--compare", metavar="URL", help="Second server, loaded in turns with the first.")
@click.option("--compare-model", default="", help="Its model  [default: --model, or its first]")
@click.option(
    "--compare-api-key",
    envvar="OPEN_LLM_COMPARE_API_KEY",
    show_envvar=True,
    help="Its key; the first server's key is never sent to it.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    help="Repetitions of the load.  [default: 1, or 4 with --compare]",
)
@click.option("--json", "json_file", type=_FILE, help="Write JSON here.")
@click.option("--plot", "plot_file", type=_FILE, help="Write a PNG here.")
def bench(**options: Any) -> None:
    """Measure an OpenAI-compatible server at URL, the base URL that usually ends in /v1.

    Without URL it is the server of `openllm start`: http://127.0.0.1:5000/v1.

    Reports time to first token, latency between tokens, end-to-end latency, throughput, goodput
    and errors. Ctrl-C reports what was measured so far.
    """
    _refuse_contradictions(options)
    options["url"] = options["url"] or options["url_option"] or DEFAULT_URL
    try:
        run = _prepare(options)
        _measure(run)
        if any(side.records for side in run.sides):
            _report(run, options["json_file"], options["plot_file"])
    except OpenLLMError as exc:
        raise click.ClickException(exc.message) from exc
    if run.interrupted:
        raise click.exceptions.Exit(INTERRUPTED)
    _fail_if_nothing_worked(run)


def _refuse_contradictions(options: dict[str, Any]) -> None:
    for first, second, why in (
        ("rate", "concurrency", "an open loop has no fixed number in flight"),
        ("prompt_file", "prompt_tokens", "the file's prompts have a length of their own"),
    ):
        if options[first] is not None and options[second] is not None:
            raise click.UsageError(f"give --{_flag(first)} or --{_flag(second)}: {why}")
    if options["url"] is not None and options["url_option"] is not None:
        raise click.UsageError("give URL or --url, not both; --compare takes a second server")
    for name, value in options.items():
        if isinstance(value, float) and not isfinite(value):
            raise click.UsageError(f"--{_flag(name)} {value} is not a number to measure with")
    for dependent, needed in (
        ("burstiness", "rate"),
        ("compare_model", "compare"),
        ("compare_api_key", "compare"),
    ):
        source = click.get_current_context().get_parameter_source(dependent)
        given = source is click.core.ParameterSource.COMMANDLINE
        if given and options[needed] is None:
            raise click.UsageError(f"--{_flag(dependent)} needs --{_flag(needed)}")
    for path in (options["json_file"], options["plot_file"]):
        if path is not None and not path.absolute().parent.is_dir():
            raise click.UsageError(f"the folder of {str(path)!r} does not exist; create it first")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _prepare(options: dict[str, Any]) -> Run:
    from openllm.bench.http_client import parse_target
    from openllm.bench.plot import require_matplotlib
    from openllm.bench.run import Run, Side

    if options["plot_file"] is not None:
        require_matplotlib()
    try:
        target = parse_target(options["url"], options["api_key"])
        compared = options["compare"] or options["url"]
        other = parse_target(compared, options["compare_api_key"])
    except ConfigurationError as error:
        raise click.UsageError(error.message) from None
    sides = [Side("A", target, options["model"])]
    if options["compare"] is not None:
        sides.append(Side("B", other, options["compare_model"] or options["model"]))
    return Run(_settings(options), sides)


def _settings(options: dict[str, Any]) -> Any:
    from openllm.bench.settings import MAX_REQUESTS, BenchSettings
    from openllm.bench.workload import read_prompts

    chosen = {name: options[name] for name in _SAME_NAME if options[name] is not None}
    prompt_file = options["prompt_file"]
    return BenchSettings(
        **chosen,
        concurrency=None if options["rate"] else options["concurrency"] or 8,
        requests=options["requests"] or (MAX_REQUESTS if options["duration"] else 64),
        rounds=options["rounds"] or (4 if options["compare"] else 1),
        prompts=read_prompts(prompt_file) if prompt_file else (),
    )


def _measure(run: Run) -> None:
    from openllm.bench.run import run_bench

    def progress(line: str) -> None:
        click.echo(line, err=True)

    try:
        _run_async(run_bench(run, progress))
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
    try:
        if json_file is not None:
            write_document(run, json_file)
        if plot_file is not None:
            write_plot(run, plot_file)
    except OSError as exc:
        raise ConfigurationError(f"cannot write {exc.filename}: {exc.strerror}") from exc


def _fail_if_nothing_worked(run: Run) -> None:
    for side in run.sides:
        if all(record.error for record in side.records):
            detail = side.records[0].detail if side.records else "no request was sent"
            raise click.ClickException(f"no request to {side.target.url} succeeded: {detail}")
