"""What `openllm fit` writes: a row for each engine, and what there is to say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from openllm.config.effective import Entry
    from openllm.models.facts import ModelFacts
    from openllm.models.fit_verdict import Fit

_HEADINGS = ("ENGINE", "WEIGHTS", "KV", "OVERHEAD", "NEED", "FREE", "FITS", "LARGEST CONTEXT")


class Row(NamedTuple):
    """An engine that could run the model, and what it lacks here; "" if it is installed."""

    fit: Fit
    lacks: str


def write_json(
    entry: Entry, facts: ModelFacts, rows: Sequence[Row], reasons: Sequence[str]
) -> None:
    report = {
        "model": entry.name,
        "format": facts.format,
        "architecture": facts.architecture,
        "context_length": facts.context_length,
        "weight_bytes": facts.weight_bytes,
        "adapter_bytes": facts.adapters,
        "engines": [_fields(row) for row in rows],
        "reasons": list(reasons),
        "warnings": list(_warnings(entry, facts, rows)),
    }
    click.echo(json.dumps(report, indent=2))


def _fields(row: Row) -> dict[str, Any]:
    """Return a row for programs; sizes are bytes."""
    fit = row.fit
    return {
        "engine": fit.use.engine,
        "place": fit.use.place,
        "context_length": fit.use.context,
        "max_concurrency": fit.use.sequences,
        "weights": fit.need.weights,
        "kv_cache": fit.need.cache,
        "overhead": fit.need.overhead,
        "need": fit.need.total,
        "free": fit.free,
        "fits": fit.fits,
        "fits_whole_context": fit.whole,
        "largest_context": fit.largest,
        "chosen_context": fit.chosen,
        "install": row.lacks,
    }


def write_table(
    entry: Entry, facts: ModelFacts, rows: Sequence[Row], reasons: Sequence[str]
) -> None:
    from openllm.cli.store_table import aligned

    limit = facts.context_length or "no limit"
    click.echo(f"{entry.name}: {facts.architecture}, context {limit}")
    if rows:
        click.echo(aligned([_HEADINGS, *(_cells(row.fit) for row in rows)]))
    for line in (*_notes(facts, rows), *_warnings(entry, facts, rows), *reasons):
        click.echo(line)


def _cells(fit: Fit) -> tuple[str, ...]:
    from openllm.sizes import size_text

    need = fit.need
    sizes = (need.weights, need.cache, need.overhead, need.total, fit.free)
    verdict = "yes" if fit.whole else "with less context" if fit.fits else "no"
    return (fit.use.engine, *map(size_text, sizes), verdict, str(fit.largest))


def _notes(facts: ModelFacts, rows: Sequence[Row]) -> Iterator[str]:
    from openllm.engines import installation
    from openllm.sizes import size_text

    if facts.adapters:
        yield f"Adapters are {size_text(facts.adapters)} of the weights."
    for fit, lacks in rows:
        engine = fit.use.engine
        yield f"{engine}: {fit.use.sequences} x {fit.use.context} tokens" + (
            " on the card" if fit.use.place == "gpu" else ""
        )
        if not fit.context_asked and fit.chosen < min(fit.use.context, fit.largest):
            yield (
                f"{engine}: start chooses about {fit.chosen} tokens itself, which leaves memory to"
                f" others; --context-length gives up to {fit.largest}"
            )
        if fit.mapped:
            yield f"{engine}: it would start, and read weights from the disk again and again"
        if lacks:
            yield f"{engine}: not installed here; run: {installation(engine)}"
    if rows and not facts.shape.caches and not facts.shape.state:
        yield "The files do not say how large its KV cache is, so that is not counted."


def _warnings(entry: Entry, facts: ModelFacts, rows: Sequence[Row]) -> Iterator[str]:
    """Yield where the settings are not honoured, and what start alone will tell."""
    from openllm.models.families import support_of

    if refusal := _refusal(entry, facts):
        yield f"start refuses it: {refusal}"
    asked = entry.config.load.context_length or 0
    for use in (row.fit.use for row in rows):
        if use.context < asked:
            yield (
                f"{use.engine}: context_length {asked} is more than the {use.context} that the"
                f" model was made for; start uses {use.context}"
            )
        if use.engine == "torch" and support_of(facts.architecture) is None:
            yield (
                f"torch: nothing is known here of {facts.architecture}; start says whether the"
                " installed transformers runs it when it loads the model"
            )


def _refusal(entry: Entry, facts: ModelFacts) -> str:
    """Return what keeps a folder from being served for want of a tokenizer, here or on a hub."""
    from openllm.errors import EngineNotInstalledError, ModelFileError
    from openllm.llm.ahead import engine_ahead
    from openllm.models.folder import check_tokenizer
    from openllm.models.locate import find_local
    from openllm.models.ref import parse_ref

    load, ref = entry.config.load, parse_ref(entry.text)
    if load.other_tokenizer or facts.format != "safetensors":
        return ""
    model = find_local(ref)
    try:
        if model is None:
            engine_ahead(ref, load, entry.download)
        else:
            check_tokenizer(model.path, trust_remote_code=load.trust_remote_code)
    except EngineNotInstalledError:
        pass  # What to install is said with the engine.
    except ModelFileError as error:
        return error.message
    return ""
