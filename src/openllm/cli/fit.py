"""`openllm fit`: whether a model fits the memory, before a byte of its weights is downloaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from openllm.cli.ending import FAILED
from openllm.cli.fit_report import Row, write_json, write_table
from openllm.cli.once import OnceCommand
from openllm.cli.options import field_flags, flags_of, given
from openllm.config.download import DownloadOptions
from openllm.config.model import CONCURRENCY

if TYPE_CHECKING:
    from openllm.config.effective import Entry
    from openllm.config.model import LoadOptions
    from openllm.llm.parts import AdapterAhead
    from openllm.models.facts import ModelFacts

_UNKNOWN_CARDS = (
    "nothing tells what is free on the cards of this machine (nvidia-smi does, where it works and"
    " they are not divided); --device cpu counts the processor's memory"
)


@click.command("fit", cls=OnceCommand)
@click.argument("name", metavar="MODEL")
@field_flags(
    "context_length",
    "dtype",
    "tokenizer",
    "tokenizer_revision",
    "lora",
    "trust_remote_code",
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
    its files are read. Adapters count among the weights, as large as they are stored. KV is the
    cache of keys and values with every sequence at full length. Without --context-length it is the
    model's own, and engines make do with less, llama.cpp with what half of the free memory holds.
    The exit status is 0 if it fits on an engine and 1 if on none, or if nobody can tell.

    \b
      openllm fit ./llama.gguf --context-length 8192
      openllm fit org/name:Q4_K_M --max-concurrency 1
    """
    sys.exit(0 if _fit(name, given(flags), as_json) else FAILED)


def _fit(name: str, options: dict[str, Any], as_json: bool) -> bool:
    from openllm.bento.options import blame, read_configuration
    from openllm.errors import ConfigurationError, OpenLLMError
    from openllm.llm.parts import adapters_ahead
    from openllm.models.offers import asked_once

    entries = read_configuration(name, options, os.environ).entries
    if len(entries) != 1:
        raise ConfigurationError(f"{name!r} are {len(entries)} models; give one.")
    (entry,) = entries
    reasons: list[str] = []
    try:
        with asked_once():
            adapters = adapters_ahead(entry.config.load.lora, entry.download)
            facts = _facts(entry, adapters)
            rows = list(_rows(facts, entry, adapters, reasons))
            write = write_json if as_json else write_table
            write(entry, facts, rows, reasons)
    except OpenLLMError as error:
        error.message = blame(error, entry.settings)
        raise
    return any(row.fit.fits for row in rows)


def _facts(entry: Entry, adapters: Sequence[AdapterAhead]) -> ModelFacts:
    """Read the headers of the model, on the hub if it is not here; its adapters count too."""
    from msgspec.structs import replace

    return replace(_model_facts(entry), adapters=sum(each.size for each in adapters))


def _model_facts(entry: Entry) -> ModelFacts:
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


def _rows(
    facts: ModelFacts, entry: Entry, adapters: Sequence[AdapterAhead], reasons: list[str]
) -> Iterator[Row]:
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
        elif mistakes := _mistakes(entry, engine, adapters):
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


def _mistakes(entry: Entry, engine: str, adapters: Sequence[AdapterAhead]) -> list[str]:
    """Return what `openllm start` refuses of the settings where `engine` runs the model."""
    from openllm.bento.devices import check_device
    from openllm.bento.heeded import options_lacking
    from openllm.bento.options import blame
    from openllm.errors import ConfigurationError
    from openllm.llm.choice import check_adapter

    mistakes = list(options_lacking([entry], {entry.name: engine}))
    try:
        check_device(engine, entry.config.load)
        for adapter in adapters:
            check_adapter(adapter.label, adapter.format, engine)
    except ConfigurationError as error:
        mistakes.append(blame(error, entry.settings))
    return mistakes


def _row(facts: ModelFacts, engine: str, load: LoadOptions, cards: Sequence[int] | None) -> Row:
    from openllm.engines import engine_kind, missing_modules
    from openllm.errors import OpenLLMError
    from openllm.machine import free_memory
    from openllm.models.fit import cards_of, use_of
    from openllm.models.fit_verdict import judge

    use = use_of(facts, engine, load, cards=cards)
    if use.place == "gpu" and cards is None:
        raise OpenLLMError(_UNKNOWN_CARDS)
    if cards and use.place == "gpu":
        free = sum(cards[each] for each in cards_of(engine, load, len(cards)))
    else:
        free = free_memory()
    found = judge(facts, use, free, context_asked=load.context_length is not None)
    lacks = engine_kind(engine).install if missing_modules(engine) else ""
    return Row(found, lacks)


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
