"""What can be wrong with models, files and texts, found before a socket is bound or a model loaded.

Knows nothing of how anything is served.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from openllm.bento.devices import check_device
from openllm.config.effective import Entry
from openllm.config.model import LoadOptions, ModelConfig
from openllm.engines.scripted_rules import read_script
from openllm.errors import OutOfMemoryError
from openllm.llm.choice import choose_by_facts, choose_engine
from openllm.llm.parts import adapters_ahead
from openllm.machine import free_cards, free_memory
from openllm.models.facts import ModelFacts, facts_of
from openllm.models.facts_ahead import facts_ahead
from openllm.models.fit import (
    ENGINES,
    LEAST_CONTEXT,
    SERVER_BYTES,
    Need,
    Use,
    cards_of,
    largest_context,
    least_need,
    need,
    use_of,
)
from openllm.models.layouts import check_files
from openllm.models.locate import expand, find_local
from openllm.models.ref import parse_ref, shown_source
from openllm.sizes import size_text
from openllm.types import LocalModel

logger = logging.getLogger("openllm")

SURE = 0.5
"""Of the overhead, what is needed for sure; weights and cache are known to the byte."""

Cards = Sequence[int] | None
"""Free bytes of each card; None where there are some of which that is not known."""


def check_models(models: Sequence[LocalModel], config: ModelConfig) -> list[str]:
    """Check the files of every model, its engine and device; returns the engines.

    Raises:
        ConfigurationError: A file or a setting is wrong.
        EngineNotInstalledError: A model needs a package that is missing.
    """
    check_own_files(models, config)
    engines = [choose_engine(model, config.load).name for model in models]
    for engine in engines:
        check_device(engine, config.load)
    return engines


def check_own_files(models: Sequence[LocalModel], config: ModelConfig) -> None:
    """Check the files of every model, whether an engine is installed or not.

    Raises:
        ModelFileError: One is damaged, missing, or needs code that is not trusted.
        ConfigurationError: A script has a mistake.
    """
    load = config.load
    for model in models:
        weights = load.load_format != "dummy"
        check_files(model, trust_remote_code=load.trust_remote_code, weights=weights)
        if model.format == "script":
            read_script(model.path)


class _Claim(NamedTuple):
    """What one model takes at least, and how much of it is beyond doubt.

    Attributes:
        text: The model, as `openllm fit` takes it.
        facts: What decides its needs.
        use: How it is to be run.
        cards: Numbers of the cards that it may fill; () where the processor computes.
    """

    name: str
    text: str
    facts: ModelFacts
    use: Use
    cards: tuple[int, ...]
    need: Need
    sure: int


def check_memory(models: Sequence[tuple[LocalModel, LoadOptions]], *, warned: bool = False) -> None:
    """Check that all these models fit the memory together, each with the least useful setting.

    What is doubtful is a warning: GGUF weights on the processor are mapped, so that a file larger
    than the memory works, slowly.

    Args:
        models: With how each will be loaded.
        warned: Whether that warning was given already.

    Raises:
        OutOfMemoryError: They cannot fit; says what each needs and what is free.
        ConfigurationError: A model's device is a card that is not here.
        ModelFileError: A file is damaged.
    """
    cards = free_cards()
    doubt = _doubt([_claim_loaded(model, load, cards) for model, load in models], cards)
    if doubt and not warned:
        logger.warning(doubt)


def check_memory_ahead(entries: Sequence[Entry]) -> bool:
    """Check the same before anything is downloaded: of what is not here, headers are read.

    A model whose headers its server does not give is left for later, as is one that is small.

    Returns:
        Whether the warning was given.

    Raises:
        OutOfMemoryError: They cannot fit; says what each needs and what is free.
        OpenLLMError: A model cannot be downloaded, or no engine runs it.
    """
    cards = free_cards()
    doubt = _doubt([_claim_of(entry, cards) for entry in entries], cards)
    if doubt:
        logger.warning(doubt)
    return bool(doubt)


def memory_doubt(entry: Entry) -> str:
    """Return why this model alone would not fit the memory that is free; "" if it does.

    Its engine need not be installed.

    Raises:
        OpenLLMError: It cannot be downloaded, or no engine runs it.
    """
    cards = free_cards()
    try:
        return _doubt([_claim_of(entry, cards)], cards)
    except OutOfMemoryError as error:
        return error.message


def _claim_loaded(model: LocalModel, load: LoadOptions, cards: Cards) -> _Claim | None:
    return _claim_here(model, load, cards, sum(adapter.size for adapter in model.adapters))


def _claim_here(model: LocalModel, load: LoadOptions, cards: Cards, adapters: int) -> _Claim | None:
    engine = choose_engine(model, load).name
    known = engine in ENGINES and load.load_format != "dummy"
    facts = facts_of(model) if known else None
    if facts is None:
        return None
    text = shown_source(model.source or model.path)
    return _claim(model.name, text, replace(facts, adapters=adapters), engine, load, cards)


def _claim_of(entry: Entry, cards: Cards) -> _Claim | None:
    load = entry.config.load
    if load.load_format == "dummy":
        return None
    ref = parse_ref(entry.text)
    model = find_local(ref)
    adapters = sum(adapter.size for adapter in adapters_ahead(load.lora, entry.download))
    if model is not None:
        return _claim_here(model, load, cards, adapters)
    facts = facts_ahead(expand(ref), entry.download)
    if facts is None:
        return None
    architecture = facts.architecture if facts.format == "safetensors" else ""
    engine = choose_by_facts(entry.name, facts.format, architecture, load, installed=False).name
    if engine not in ENGINES:
        return None
    text = shown_source(ref.source)
    return _claim(entry.name, text, replace(facts, adapters=adapters), engine, load, cards)


def _claim(
    name: str, text: str, facts: ModelFacts, engine: str, load: LoadOptions, cards: Cards
) -> _Claim | None:
    use = use_of(facts, engine, load, cards=cards)
    if use.place == "gpu" and cards is None:
        return None
    if engine == "llamacpp" and load.context_length is not None:
        took = need(facts, use)  # It takes the whole cache at once, and never less than asked.
    else:
        took = least_need(facts, use)
    overhead = 0.0 if use.place == "gpu" else SURE * took.overhead
    weights = 0 if engine == "llamacpp" else took.weights
    sure = weights + took.cache + int(overhead)
    on = cards_of(engine, load, len(cards)) if cards and use.place == "gpu" else ()
    return _Claim(name, text, facts, use, on, took, sure)


def _doubt(found: Sequence[_Claim | None], cards: Cards) -> str:
    """Return what is to be told of these claims together, "" if nothing is."""
    claims = [claim for claim in found if claim is not None]
    doubts = [_compare([each for each in claims if not each.cards], free_memory(), SERVER_BYTES)]
    for room in sorted({each.cards for each in claims if each.cards}):
        within = [each for each in claims if each.cards and set(each.cards) <= set(room)]
        doubts.append(_compare(within, sum((cards or ())[each] for each in room), 0))
    return "; ".join(filter(None, doubts))


def _compare(claims: Sequence[_Claim], free: int, server: int) -> str:
    needed = sum(claim.need.total for claim in claims) + server
    if not claims or needed <= free:
        return ""
    parts = "; ".join(f"{claim.name} {_shown(claim.need)}" for claim in claims)
    text = (
        f"{size_text(needed)} of memory are needed at least and {size_text(free)} are free"
        f" ({parts})"
    )
    if sum(claim.sure for claim in claims) > free:
        raise OutOfMemoryError(f"{text}; {_advice(claims, free - server)}")
    return (
        f"{text}; weights may be read from the disk again and again, which is slow: openllm fit"
        " shows what fits"
    )


def _advice(claims: Sequence[_Claim], room: int) -> str:
    """Say what to do about models that need more than the `room` bytes that they may fill."""
    less = (
        "use a smaller or more strongly quantized model, fewer models, or a smaller context_length"
        " and max_concurrency, or free memory"
    )
    alone = claims[0] if len(claims) == 1 else None
    longest = largest_context(alone.facts, alone.use, room) if alone else 0
    if longest >= LEAST_CONTEXT:
        return f"the largest context_length that fits is {longest}; {less}"
    shown = " and ".join(f"openllm fit {shlex.quote(claim.text)}" for claim in claims)
    return f"{less}; what would fit is shown by: {shown}"


def _shown(claim: Need) -> str:
    return f"{size_text(claim.total)}, of which weights {size_text(claim.weights)}"
