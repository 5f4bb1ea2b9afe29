"""The report as a picture: how latencies are distributed, and throughput over time."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.bench.report import tpot
from openllm.bench.run import Run, Side
from openllm.bench.settings import RequestRecord
from openllm.errors import ConfigurationError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0b6e99", "#c8500a")
_BINS = 60


def require_matplotlib() -> None:
    """Raise `ConfigurationError` if the plot's package is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigurationError(
            "--plot needs matplotlib; install it with: pip install 'open-llm-server[plot]'"
        )


def write_plot(run: Run, path: Path) -> None:
    """Draw TTFT, ITL, TPOT and end-to-end distributions and throughput over time as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    FigureCanvasAgg(figure)
    top = figure.add_gridspec(2, 4, height_ratios=(1, 1))
    panels = [figure.add_subplot(top[0, column]) for column in range(4)]
    titles = ("TTFT", "ITL", "TPOT", "End to end")
    for number, (axes, title) in enumerate(zip(panels, titles, strict=True)):
        _distribution(axes, title, [_metrics(side)[number] for side in run.sides])
    panels[0].set_ylabel("share of samples")
    _throughput(figure.add_subplot(top[1, :]), run.sides)
    figure.suptitle(_title(run))
    figure.savefig(path, dpi=110, format="png")


def _title(run: Run) -> str:
    settings = run.settings
    load = f"{settings.rate:g} requests/s" if settings.rate else f"{settings.concurrency} in flight"
    return f"{' against '.join(_legend(run.sides))}, {settings.endpoint}, {load}"


def _legend(sides: Sequence[Side]) -> list[str]:
    if len(sides) == 1:
        return [sides[0].name]
    return [f"{side.label}: {side.name}" for side in sides]


def _metrics(side: Side) -> tuple[list[float], ...]:
    """TTFT, ITL, TPOT and end-to-end samples of complete replies, in seconds."""
    done = [record for record in side.records if record.error is None]
    return (
        [record.ttft for record in done if record.ttft is not None],
        [gap for record in done for gap in record.gaps],
        [value for record in done if (value := tpot(record)) is not None],
        [record.latency for record in done],
    )


def _distribution(axes: Axes, title: str, samples: Sequence[Sequence[float]]) -> None:
    for values, colour in zip(samples, _COLOURS, strict=False):
        ordered = sorted(value * 1000.0 for value in values)
        if ordered:
            shares = [number / len(ordered) for number in range(len(ordered) + 1)]
            axes.step([ordered[0], *ordered], shares, where="post", color=colour)
    axes.set_title(title)
    axes.set_xlabel("ms")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlim(left=0.0)
    axes.grid(alpha=0.3)


def _throughput(axes: Axes, sides: Sequence[Side]) -> None:
    ends = [one.start + one.duration for side in sides for one in side.rounds]
    width = max([*ends, 1e-3]) / _BINS
    for side, colour, label in zip(sides, _COLOURS, _legend(sides), strict=False):
        rates = token_rates(side.records, width)
        times = [(number + 0.5) * width for number in range(len(rates))]
        axes.plot(times, rates, color=colour, label=label)
    axes.set_title("Output tokens per second over time")
    axes.set_xlabel("s since the first request")
    axes.set_xlim(left=0.0)
    axes.set_ylim(bottom=0.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="best")


def token_rates(records: Sequence[RequestRecord], width: float) -> list[float]:
    """Output tokens per second in `_BINS` bins of `width` seconds each, from 0.

    A reply's tokens are spread evenly over its chunks, which came when they came.
    """
    bins = [0.0] * _BINS
    for record in records:
        if record.ttft is None:
            continue
        share = record.output_tokens / (len(record.gaps) + 1)
        first = record.start + record.ttft
        for moment in accumulate(record.gaps, initial=first):
            bins[min(_BINS - 1, int(moment / width))] += share / width
    return bins
