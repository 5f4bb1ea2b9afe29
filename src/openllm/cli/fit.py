"""`openllm fit`: whether a model fits the memory, before a byte of its weights is downloaded."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from openllm.cli.ending import FAILED
from openllm.cli.once import OnceCommand
from openllm.cli.options import field_flags, flags_of, given
from openllm.config.download import DownloadOptions
from openllm.config.model import CONCURRENCY

if TYPE_CHECKING:
    from openllm.config.effective import Entry
    from openllm.config.model import LoadOptions
    from openllm.models.facts import ModelFacts
    from openllm.models.fit import Fit

_HEADINGS = ("ENGINE", "WEIGHTS", "KV", "OVERHEAD", "NEED", "FREE", "FITS", "LARGEST CONTEXT")

_UNKNOWN_CARDS = (
    "nothing tells what is free on the cards of this machine (nvidia-smi does, where it works and"
    " they are not divided); --device cpu counts the processor's memory"
)


class _Row(NamedTuple):
    """An engine that could run the model, and what it lacks here; "" if it is installed."""

    fit: Fit
    lacks: str


@click.command("fit", cls=OnceCommand)
@click.argument("name", metavar="MODEL")
@field_flags(
    "context_length",
    "dtype",
    max_concurrency="Sequences of full length at once"
    f" [default: {CONCURRENCY['llamacpp']} on llamacpp, 1 elsewhere].",
    backend="This engine only.",
    device="cpu counts the processor's memory only.",
)
@flags_of((DownloadOptions,))
@field_flags("models_dir")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fit(name: str, as_json: bool, **flags: Any) -> None:
    """Say whether MODEL fits the memory that is free, and the largest context that does.

    MODEL is anything that `openllm start` takes. Of a model that is not here only the headers of
    its files are read. KV is the cache of keys and values with every sequence at full length.
    Without --context-length it is the model's own, and engines make do with less, llama.cpp with
    what half of the free memory holds. The exit status
    is 0 if it fits on an engine and 1 if on none, or if nobody can tell.

    \b
      openllm fit ./llama.gguf --context-length 8192
      openllm fit org/name:Q4_K_M --max-concurrency 1
    """
    sys.exit(0 if _fit(name, given(flags), as_json) else FAILED)


def _fit(name: str, options: dict[str, Any], as_json: bool) -> bool:
    from openllm.bento.options import blame, read_configuration
    from openllm.errors import ConfigurationError, OpenLLMError

    entries = read_configuration(name, options, os.environ).entries
    if len(entries) != 1:
        raise ConfigurationError(f"{name!r} are {len(entries)} models; give one.")
    (entry,) = entries
    reasons: list[str] = []
    try:
        facts = _facts(entry)
        rows = list(_rows(facts, entry, reasons))
    except OpenLLMError as error:
        error.message = blame(error, entry.settings)
        raise
    write = _write_json if as_json else _write_table
    write(entry, facts, rows, reasons)
    return any(row.fit.fits for row in rows)


def _facts(entry: Entry) -> ModelFacts:
    """Read the headers of the model, on the hub if it is not here."""
    from openllm.errors import ConfigurationError
    from openllm.models.facts import facts_of, facts_of_remote
    from openllm.models.locate import expand, find_local
    from openllm.models.ref import parse_ref

    ref = parse_ref(entry.text)
    model = find_local(ref)
    if model is None:
        from openllm.models.offers import offered

        return facts_of_remote(*offered(expand(ref), entry.download), entry.download)
    facts = facts_of(model)
    if facts is None:
        raise ConfigurationError(
            f"{entry.text} is of the format {model.format}, whose needs are not known."
        )
    return facts


def _rows(facts: ModelFacts, entry: Entry, reasons: list[str]) -> Iterator[_Row]:
    """Yield the engines that could run the model; `reasons` gets why others cannot.

    Raises:
        ConfigurationError: `openllm start` refuses these settings on every engine.
    """
    from openllm.config.explain import together
    from openllm.errors import ConfigurationError
    from openllm.machine import free_cards

    cards = free_cards()
    load = entry.config.load
    wrong: dict[str, None] = {}
    able = False
    for engine in _engines(facts, load):
        if reason := _why_not(facts, engine, load):
            reasons.append(reason)
        elif mistakes := _mistakes(entry, engine):
            wrong.update(dict.fromkeys(mistakes))
        else:
            able = True
            yield _row(facts, engine, load, cards)
    if wrong and not able:
        raise ConfigurationError(together(list(wrong)))
    reasons += wrong


def _why_not(facts: ModelFacts, engine: str, load: LoadOptions) -> str | None:
    """Return why `engine` does not run the architecture, as far as `openllm start` knows."""
    from openllm.engines import missing_modules
    from openllm.engines.vllm_presence import unfit
    from openllm.models.families import why_not

    if engine == "vllm" and not missing_modules(engine):
        return unfit(facts.architecture)
    return None if load.trust_remote_code else why_not(facts.architecture, engine)


def _mistakes(entry: Entry, engine: str) -> list[str]:
    """Return what `openllm start` refuses of the settings where `engine` runs the model."""
    from openllm.bento.devices import check_device
    from openllm.bento.heeded import options_lacking
    from openllm.bento.options import blame
    from openllm.errors import ConfigurationError

    mistakes = list(options_lacking([entry], {entry.name: engine}))
    try:
        check_device(engine, entry.config.load)
    except ConfigurationError as error:
        mistakes.append(blame(error, entry.settings))
    return mistakes


def _row(facts: ModelFacts, engine: str, load: LoadOptions, cards: Sequence[int] | None) -> _Row:
    from openllm.engines import engine_kind, missing_modules
    from openllm.errors import OpenLLMError
    from openllm.machine import free_memory
    from openllm.models.fit import cards_of, judge, use_of

    use = use_of(facts, engine, load, cards=cards)
    if use.place == "gpu" and cards is None:
        raise OpenLLMError(_UNKNOWN_CARDS)
    if cards and use.place == "gpu":
        free = sum(cards[each] for each in cards_of(engine, load, len(cards)))
    else:
        free = free_memory()
    found = judge(facts, use, free, context_asked=load.context_length is not None)
    lacks = engine_kind(engine).install if missing_modules(engine) else ""
    return _Row(found, lacks)


def _engines(facts: ModelFacts, load: LoadOptions) -> Sequence[str]:
    from openllm.engines import engine_name, engines_for
    from openllm.errors import ConfigurationError
    from openllm.models.fit import ENGINES

    able = [name for name in engines_for(facts.format) if name in ENGINES]
    if load.backend is None:
        return able
    asked = engine_name(load.backend)
    if asked not in able:
        raise ConfigurationError(
            f"The {asked} backend cannot load this model, whose format is {facts.format};"
            f" use {' or '.join(able)}.",
            param="backend",
        )
    return [asked]


def _write_json(
    entry: Entry, facts: ModelFacts, rows: Sequence[_Row], reasons: Sequence[str]
) -> None:
    report = {
        "model": entry.name,
        "format": facts.format,
        "architecture": facts.architecture,
        "context_length": facts.context_length,
        "weight_bytes": facts.weight_bytes,
        "engines": [_fields(row) for row in rows],
        "reasons": list(reasons),
        "warnings": list(_warnings(entry, facts, rows)),
    }
    click.echo(json.dumps(report, indent=2))


def _fields(row: _Row) -> dict[str, Any]:
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


def _write_table(
    entry: Entry, facts: ModelFacts, rows: Sequence[_Row], reasons: Sequence[str]
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


def _notes(facts: ModelFacts, rows: Sequence[_Row]) -> Iterator[str]:
    from openllm.engines import installation

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


def _warnings(entry: Entry, facts: ModelFacts, rows: Sequence[_Row]) -> Iterator[str]:
    """Yield where the settings are not honoured, and what start alone will tell."""
    from openllm.models.families import support_of

    if refusal := _without_tokenizer(entry, facts):
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


def _without_tokenizer(entry: Entry, facts: ModelFacts) -> str:
    """Return what keeps a folder on this machine from being served for want of a tokenizer."""
    from openllm.errors import ModelFileError
    from openllm.models.folder import check_tokenizer
    from openllm.models.locate import find_local
    from openllm.models.ref import parse_ref

    load = entry.config.load
    other = load.tokenizer is not None or load.tokenizer_revision is not None
    model = None if other else find_local(parse_ref(entry.text))
    if model is not None and facts.format == "safetensors":
        try:
            check_tokenizer(model.path, trust_remote_code=load.trust_remote_code)
        except ModelFileError as error:
            return error.message
    return ""
