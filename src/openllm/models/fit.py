"""Will it fit? What a model needs in memory under an engine, and the longest context that fits.

The figures of overhead were measured: resident memory of the process that runs the engine, less
weights and cache. Weights are counted once, although Linux shows a mapped file of weights as
resident beside a copy in another layout (llama.cpp's for Q4_0 and the like, torch's for bfloat16):
it can drop the file's pages.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from openllm.config.model import CONCURRENCY, FREE_SHARE, LoadOptions, shown_device
from openllm.errors import ConfigurationError
from openllm.models.facts import ModelFacts
from openllm.models.facts_config import Cache

MIB = 1 << 20
LEAST_CONTEXT = 512
"""Tokens: with less room than this, loading a model serves nobody."""
UNBOUNDED_CONTEXT = 4096
"""Tokens a model is given that names no limit."""
SERVER_BYTES = 100 * MIB
"""The process that answers HTTP, measured; there is one for all models."""

Place = Literal["cpu", "gpu"]

_BATCH = 512  # Tokens of a prompt that are read at once.
_CELLS, _LEAST_CELLS = 256, 4096  # llama.cpp's own choice of a context: in steps, and at least.
_WIDTHS = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}


class Use(NamedTuple):
    """How a model is to be run.

    Attributes:
        engine: "llamacpp", "torch" or "vllm".
        context: Tokens of one sequence, prompt and output.
        sequences: How many of that length at once; None is what the engine itself makes room for.
        dtype: Type of the weights, where the engine has a choice.
        place: Where it is computed.
    """

    engine: str
    context: int
    sequences: int | None = None
    dtype: str = "auto"
    place: Place = "cpu"


class Need(Struct, frozen=True):
    """Bytes that a model takes."""

    weights: int
    cache: int
    overhead: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.overhead


class _Engine(NamedTuple):
    """What an engine takes, measured on Linux x86-64.

    Attributes:
        process: Bytes that it has resident with a model of no size.
        sequences: Full-length sequences that have their room from the start.
        columns: Tokens of room for each token of a sequence.
        spare: Tokens of cache beside all sequences'.
        share: Part of what weights leave free that the cache may fill.
    """

    process: int
    sequences: int = 1
    columns: int = 1
    spare: int = 0
    share: float = 1.0


# llamacpp: 60 MiB resident with a model of 5 MB. All slots have their cache from the start.
# torch: 460 MiB with one of 9 MB, most of it the libraries. Its window of keys and values doubles,
#   so that a row has up to two columns a token; the share is torch_session's.
# vllm: 500 MiB in the process that owns it, and what its own plan takes as workspace, 512 MiB, of
#   which 440 MiB are in use with a model of 9 MB. Blocks are of 128 tokens on a CPU and two are
#   spare; the share is vllm_memory's.
_ON_CPU = {
    "llamacpp": _Engine(64 * MIB, sequences=CONCURRENCY["llamacpp"]),
    "torch": _Engine(470 * MIB, columns=2, share=0.6),
    "vllm": _Engine(1024 * MIB, spare=2 * 128, share=0.5),
}
# On a card, not measured: CUDA's own context and workspaces, and for vLLM the largest step that it
# runs on trial and the graphs; it may fill nine tenths of the card.
_ON_GPU = {
    "llamacpp": _Engine(512 * MIB, sequences=CONCURRENCY["llamacpp"]),
    "torch": _Engine(768 * MIB, columns=2, share=0.6),
    "vllm": _Engine(2048 * MIB, spare=2 * 16, share=0.9),
}

ENGINES = tuple(_ON_CPU)
"""Engines whose needs are known."""


def need(facts: ModelFacts, use: Use) -> Need:
    """Return what the model needs to be served like that, with every sequence at full length.

    Raises:
        KeyError: The engine is not one of `ENGINES`.
    """
    engine = (_ON_GPU if use.place == "gpu" else _ON_CPU)[use.engine]
    width = _width(facts, use)
    cache = _cache_bytes(facts, use, engine, 2 if use.engine == "llamacpp" else width)
    unused = int(cache * (1 / engine.share - 1))
    mask = 2 * _BATCH * use.context if use.engine == "llamacpp" else 0
    return Need(
        weights=facts.loaded_bytes(width),
        cache=cache,
        overhead=engine.process + unused + mask + _computing(facts),
    )


def least_need(facts: ModelFacts, use: Use) -> Need:
    """Return what the smallest useful setting needs: one sequence of `LEAST_CONTEXT` tokens."""
    return need(facts, use._replace(context=min(LEAST_CONTEXT, use.context), sequences=1))


def largest_context(facts: ModelFacts, use: Use, free: int) -> int:
    """Return the most tokens, up to the model's own limit, that fit `free` bytes; 0 if none do.

    `use.context` does not count.
    """
    low, high = 0, own_context(facts)
    while low < high:
        middle = (low + high + 1) // 2
        fits = need(facts, use._replace(context=middle)).total <= free
        low, high = (middle, high) if fits else (low, middle - 1)
    return low


def chosen_context(facts: ModelFacts, use: Use, free: int) -> int:
    """Return about how many tokens the engine takes where nobody asks for a number.

    Of llama.cpp it is less than would fit: `FREE_SHARE` of `free` bytes is for its buffers.
    """
    if use.engine != "llamacpp":
        return largest_context(facts, use, free)
    buffers = int(free * FREE_SHARE["llamacpp"])
    fitting = largest_context(facts, use, buffers + _ON_CPU["llamacpp"].process)
    own = own_context(facts)
    return own if fitting == own else min(own, max(fitting // _CELLS * _CELLS, _LEAST_CELLS))


def default_sequences(engine: str) -> int:
    """Return how many sequences of full length the engine has room for where nobody asks."""
    return _ON_CPU[engine].sequences


def own_context(facts: ModelFacts) -> int:
    """Return the context the model gets where nobody asks for another."""
    unbounded = facts.encoder_decoder or facts.context_length is None
    return UNBOUNDED_CONTEXT if unbounded else facts.context_length or UNBOUNDED_CONTEXT


def _width(facts: ModelFacts, use: Use) -> int:
    """Return the bytes of a number of the weights, once loaded."""
    if use.dtype != "auto":
        return _WIDTHS[use.dtype]
    if use.engine == "vllm" and facts.dtype == "float32":
        return 2  # It takes the type that computes fast where the files have the exact one.
    return min(_WIDTHS.get(facts.dtype, 4), 4)


def _cache_bytes(facts: ModelFacts, use: Use, engine: _Engine, width: int) -> int:
    sequences = use.sequences or engine.sequences
    columns = engine.columns * sequences
    tokens = sum(
        each.layers * each.numbers * (_kept(each, use) * columns + engine.spare)
        for each in facts.shape.caches
    )
    return width * tokens + 4 * facts.shape.state * sequences


def _kept(cache: Cache, use: Use) -> int:
    """Return the tokens of one sequence that these layers keep.

    llama.cpp keeps a window and the batch being read, in multiples of 256; vLLM keeps windows on a
    card. torch keeps everything.
    """
    window = cache.window if use.engine == "llamacpp" or use.place == "gpu" else 0
    if not window or use.engine == "torch":
        return use.context
    return min(use.context, -(-(window + _BATCH) // 256) * 256)


def _computing(facts: ModelFacts) -> int:
    """Return what reading one batch takes, and the texts of the vocabulary.

    Fitted to llama.cpp's growth over models of 256 to 2048 wide and 512 to 150000 tokens: 240 bytes
    a token of the vocabulary, and of each token read 7 hidden states and 2.5 layers' inner ones.
    """
    shape = facts.shape
    inner = 7 * shape.hidden_size + 5 * shape.feed_forward // 2
    return 240 * shape.vocab_size + 4 * _BATCH * inner


def use_of(
    facts: ModelFacts, engine: str, load: LoadOptions, *, cards: Sequence[int] | None
) -> Use:
    """Return how `engine` would run the model with these options, on a card if there are `cards`.

    `cards` as `openllm.machine.free_cards` returns them: there are some if it is None.
    llama.cpp counts as computing on the processor: what is installed with this package does.
    """
    own = own_context(facts)
    asked = load.context_length or own
    none = cards is not None and not cards
    device = "cpu" if engine == "llamacpp" or none else load.device or "cuda"
    return Use(
        engine=engine,
        context=min(asked, own) if facts.context_length and engine != "torch" else asked,
        sequences=load.max_concurrency,
        dtype=load.dtype,
        place="gpu" if device.startswith(("cuda", "gpu")) else "cpu",
    )


def cards_of(engine: str, load: LoadOptions, count: int) -> tuple[int, ...]:
    """Return the numbers of the cards that `engine` may fill with one model, of `count` cards.

    A device with a number is that card alone. Without one torch takes all, and vLLM the first, or
    all where its engine arguments spread the model.

    Raises:
        ConfigurationError: There is no card of that number.
    """
    number = (load.device or "").partition(":")[2]
    if number:
        if int(number) >= count:
            raise ConfigurationError(
                f"device {shown_device(str(load.device))} is not on this machine, which has"
                f" {count} CUDA cards; they are counted from 0",
                param="device",
            )
        return (int(number),)
    alone = engine == "vllm" and not any(map(_spreads, load.engine_arg))
    return tuple(range(min(1, count) if alone else count))


def _spreads(engine_arg: str) -> bool:
    name = engine_arg.partition("=")[0].strip().lstrip("-").replace("-", "_")
    return name in ("tensor_parallel_size", "pipeline_parallel_size")
