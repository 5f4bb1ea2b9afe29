"""The report as a table in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from openllm.bench.report import Comparison, Spread, Summary, compare, summarise_side
from openllm.bench.run import Run
from openllm.bench.settings import BenchSettings, LengthRange


def print_report(run: Run, console: Console) -> None:
    """Print the figures of every server, and the ratios if there are two."""
    summaries = [summarise_side(side, run.settings.goodput) for side in run.sides]
    parts: list[RenderableType] = [_headline(run), *_servers(run), _latencies(run, summaries)]
    parts.append(_totals(run, summaries))
    parts += [Text(f"note: {note}") for note in notes(run, summaries)]
    comparison = compare(run)
    if comparison is not None:
        parts.append(_comparison(comparison, run.settings.rounds))
    console.print(Group(*parts))


def notes(run: Run, summaries: Sequence[Summary]) -> list[str]:
    """What a reader must know to read the figures rightly."""
    found = []
    if run.interrupted:
        found.append("interrupted; these are the replies that were complete by then")
    for side, summary in zip(run.sides, summaries, strict=True):
        if summary.tokens_counted:
            found.append(f"{side.label} sent no usage: output tokens are counted as chunks")
        if summary.send_lag_p99_ms > 10.0:
            found.append(
                f"{side.label}: 1 % of the requests were sent over {summary.send_lag_p99_ms:.0f} "
                "ms late; the load generator itself was short of CPU"
            )
        for kind, detail in summary.error_details.items():
            found.append(f"{side.label} {kind}: {detail}")
    return found


def _headline(run: Run) -> Text:
    settings = run.settings
    load = (
        f"{settings.concurrency} in flight"
        if settings.rate is None
        else f"{settings.rate:g} requests/s (burstiness {settings.burstiness:g})"
    )
    lengths = f"output at most {_length(settings.output_tokens)} tokens"
    if not settings.prompts:
        lengths = f"prompts approximately {_length(settings.prompt_tokens)} tokens, {lengths}"
    return Text(f"{settings.endpoint}, {load}, {_amount(settings)}, {lengths}")


def _amount(settings: BenchSettings) -> str:
    rounds = "" if settings.rounds == 1 else f" in each of {settings.rounds} rounds"
    if settings.duration is None:
        return f"{settings.requests} requests{rounds}"
    return f"{settings.duration:g} s{rounds}"


def _length(bounds: LengthRange) -> str:
    return str(bounds.low) if bounds.low == bounds.high else f"{bounds.low} to {bounds.high}"


def _servers(run: Run) -> list[Text]:
    return [Text(f"{side.label}: {side.target.url} (model {side.model})") for side in run.sides]


def _latencies(run: Run, summaries: Sequence[Summary]) -> Table:
    table = Table(title="Latency (ms)", title_justify="left")
    table.add_column("metric")
    for name in ("p50", "p90", "p99", "mean"):
        table.add_column(name, justify="right")
    rows = (
        ("TTFT", "ttft_ms"),
        ("ITL", "itl_ms"),
        ("TPOT", "tpot_ms"),
        ("end to end", "e2el_ms"),
    )
    for title, name in rows:
        for side, summary in zip(run.sides, summaries, strict=True):
            label = title if len(run.sides) == 1 else f"{title} {side.label}"
            table.add_row(label, *_cells(getattr(summary, name)))
    return table


def _cells(values: Spread | None) -> tuple[str, ...]:
    if values is None:
        return ("-",) * 4
    return tuple(f"{value:.2f}" for value in (values.p50, values.p90, values.p99, values.mean))


def _totals(run: Run, summaries: Sequence[Summary]) -> Table:
    table = Table(title="Throughput", title_justify="left")
    table.add_column("")
    for side in run.sides:
        table.add_column("value" if len(run.sides) == 1 else side.label, justify="right")
    rows = {
        "output tokens/s": [f"{s.output_throughput:.1f}" for s in summaries],
        "requests/s": [f"{s.request_throughput:.2f}" for s in summaries],
        "complete replies": [str(s.completed) for s in summaries],
        "errors": [_errors(s) for s in summaries],
        "prompt tokens, mean": [_optional(s.prompt_tokens_mean, ".1f") for s in summaries],
        "output tokens, mean": [f"{s.output_tokens_mean:.1f}" for s in summaries],
        "duration (s)": [f"{s.duration_s:.2f}" for s in summaries],
    }
    if run.settings.goodput:
        limits = ", ".join(f"{k} <= {v:g} ms" for k, v in run.settings.goodput.items())
        rows[f"goodput (requests/s with {limits})"] = [_optional(s.goodput) for s in summaries]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _errors(summary: Summary) -> str:
    if not summary.failed:
        return "0"
    kinds = ", ".join(f"{kind} {number}" for kind, number in summary.errors.items())
    return f"{summary.failed} ({kinds})"


def _comparison(found: Comparison, rounds: int) -> Table:
    table = Table(title=f"A against B, median of {rounds} rounds", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_row("output tokens/s, A / B", _optional(found.output_throughput_ratio, ".3f"))
    table.add_row("requests/s, A / B", _optional(found.request_throughput_ratio, ".3f"))
    table.add_row("TTFT p50, A - B (ms)", _optional(found.ttft_p50_difference_ms, "+.2f"))
    table.add_row("ITL p50, A - B (ms)", _optional(found.itl_p50_difference_ms, "+.2f"))
    return table


def _optional(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)
