"""What can be wrong with models, files and texts, found before a socket is bound or a model loaded.

Knows nothing of how anything is served.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from typing import NamedTuple

from openllm.config.model import LoadOptions, ModelConfig
from openllm.engines.scripted_rules import read_script
from openllm.errors import OutOfMemoryError
from openllm.llm.choice import choose_engine
from openllm.llm.preprompt import preprompt_text
from openllm.models.facts import facts_of
from openllm.models.fit import ENGINES, SERVER_BYTES, Need, Place, least_need, need, use_of
from openllm.models.fit_memory import free_cards, free_memory
from openllm.models.layouts import check_files
from openllm.types import LocalModel

logger = logging.getLogger("openllm")

SURE = 0.5
"""Of the overhead, what is needed for sure; weights and cache are known to the byte."""

_LIKE_A_PATH = re.compile(r"\S*/\S*|\S*\.[A-Za-z0-9]{1,5}")


def check_models(models: Sequence[LocalModel], config: ModelConfig) -> None:
    """Check the files of every model, its engine, and the pre-prompt.

    Raises:
        ConfigurationError: A file or a setting is wrong.
        EngineNotInstalledError: A model needs a package that is missing.
    """
    for model in models:
        check_files(model, trust_remote_code=config.load.trust_remote_code)
        if model.format == "script":
            read_script(model.path)
        choose_engine(model, config.load)
    _check_preprompt(config.defaults.prompt)


class _Claim(NamedTuple):
    """What one model takes at least, and how much of it is beyond doubt."""

    name: str
    place: Place
    need: Need
    sure: int


def check_memory(models: Sequence[tuple[LocalModel, LoadOptions]]) -> None:
    """Check that all these models fit the memory together, each with the least useful setting.

    What is doubtful is a warning: GGUF weights on the processor are mapped, so that a file larger
    than the memory works, slowly.

    Raises:
        OutOfMemoryError: They cannot fit; says what each needs and what is free.
        ModelFileError: A file is damaged.
    """
    cards = free_cards()
    found = [_claim(model, load, cards=bool(cards)) for model, load in models]
    claims = [claim for claim in found if claim is not None]
    _compare([each for each in claims if each.place == "cpu"], free_memory(), SERVER_BYTES)
    _compare([each for each in claims if each.place == "gpu"], sum(cards), 0)


def _claim(model: LocalModel, load: LoadOptions, *, cards: bool) -> _Claim | None:
    """Return what a model takes; None where nothing is known of its engine or its files."""
    engine = choose_engine(model, load).name
    facts = facts_of(model) if engine in ENGINES else None
    if facts is None:
        return None
    use = use_of(facts, engine, load, cards=cards)
    if engine == "llamacpp" and load.context_length is not None:
        took = need(facts, use)  # It takes the whole cache at once, and never less than asked.
    else:
        took = least_need(facts, use)
    overhead = 0.0 if use.place == "gpu" else SURE * took.overhead
    weights = 0 if engine == "llamacpp" else took.weights
    sure = weights + took.cache + int(overhead)
    return _Claim(model.name, use.place, took, sure)


def _compare(claims: Sequence[_Claim], free: int, server: int) -> None:
    needed = sum(claim.need.total for claim in claims) + server
    if not claims or needed <= free:
        return
    parts = "; ".join(f"{claim.name} {_shown(claim.need)}" for claim in claims)
    text = f"{_gib(needed)} of memory are needed at least and {_gib(free)} are free ({parts})"
    if sum(claim.sure for claim in claims) > free:
        raise OutOfMemoryError(
            f"{text}; use a smaller or more strongly quantized model, fewer models, or a smaller"
            " context_length and max_concurrency, or free memory"
        )
    logger.warning(
        "%s; weights may be read from the disk again and again, which is slow: openllm fit shows"
        " what fits",
        text,
    )


def _shown(claim: Need) -> str:
    return f"{_gib(claim.total)}, of which weights {_gib(claim.weights)}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _check_preprompt(value: str | None) -> None:
    if value and preprompt_text(value) == value and _LIKE_A_PATH.fullmatch(value):
        logger.warning("--prompt %r: there is no such file, so these words are the prompt", value)
