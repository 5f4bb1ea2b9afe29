"""Sums of memory, and the contexts that follow from them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import openllm
from openllm.config.model import LoadOptions
from openllm.errors import ConfigurationError
from openllm.models.facts import ModelFacts, facts_of
from openllm.models.facts_config import Cache, Shape
from openllm.models.fit import (
    ENGINES,
    SERVER_BYTES,
    Use,
    cards_of,
    chosen_context,
    largest_context,
    least_need,
    need,
    own_context,
    use_of,
)
from openllm.models.fit_verdict import judge
from openllm.types import LocalModel, ModelFormat

GIB = 1 << 30
DEMO = Path(openllm.__file__).parent / "demo" / "demo-q8_0.gguf"
KEY = b"llama.context_length\4\0\0\0"


def facts_with(
    *,
    form: ModelFormat = "safetensors",
    weights: dict[str, int] | None = None,
    caches: tuple[Cache, ...] = (Cache(layers=32, numbers=2048),),
    context_length: int | None = 8192,
    dtype: str = "bfloat16",
    state: int = 0,
) -> ModelFacts:
    return ModelFacts(
        format=form,
        architecture="LlamaForCausalLM",
        weights={"BF16": 16 * GIB} if weights is None else weights,
        dtype=dtype,
        context_length=context_length,
        shape=Shape(layers=32, caches=caches, state=state, hidden_size=4096),
    )


GGUF = facts_with(form="gguf", weights={"": 4 * GIB}, dtype="")


@pytest.mark.parametrize(
    ("facts", "use", "weights", "cache"),
    [
        (GGUF, Use("llamacpp", 8192, 1), 4 * GIB, 2**30),
        (GGUF, Use("llamacpp", 8192), 4 * GIB, 8 * 2**30),
        (facts_with(), Use("torch", 8192), 16 * GIB, 2 * 2**30),
        (facts_with(), Use("torch", 8192, dtype="float32"), 32 * GIB, 4 * 2**30),
        (facts_with(), Use("torch", 8192, 4), 16 * GIB, 8 * 2**30),
        (facts_with(), Use("vllm", 8192), 16 * GIB, (8192 + 256) * 131072),
        (
            facts_with(dtype="float32", weights={"F32": 32 * GIB}),
            Use("vllm", 8192),
            16 * GIB,
            (8192 + 256) * 131072,
        ),
        (
            facts_with(dtype="float32", weights={"F32": 32 * GIB}),
            Use("torch", 8192),
            32 * GIB,
            4 * 2**30,
        ),
    ],
)
def test_weights_and_cache(facts: ModelFacts, use: Use, weights: int, cache: int) -> None:
    found = need(facts, use)
    assert (found.weights, found.cache) == (weights, cache)
    assert found.total == found.weights + found.cache + found.overhead


@pytest.mark.parametrize(
    ("use", "tokens"),
    [
        (Use("llamacpp", 8192, 1), 1024 + 512),
        (Use("llamacpp", 700, 1), 700),
        (Use("torch", 8192, 1), 2 * 8192),
        (Use("vllm", 8192, 1), 8192 + 256),
        (Use("vllm", 8192, 1, place="gpu"), 1536 + 32),
    ],
)
def test_windows_bound_the_cache_where_the_engine_uses_them(use: Use, tokens: int) -> None:
    windowed = facts_with(caches=(Cache(layers=1, numbers=100, window=1024),))
    assert need(windowed, use).cache == 2 * 100 * tokens


def test_recurrent_layers_take_the_same_for_every_context() -> None:
    recurrent = facts_with(caches=(), state=1000)
    sizes = {need(recurrent, Use("vllm", context, 2)).cache for context in (1, 4096)}
    assert sizes == {2 * 4 * 1000}


@given(
    st.sampled_from(ENGINES),
    st.integers(0, 64 * GIB),
    st.integers(1, 64),
    st.integers(0, 8192),
    st.sampled_from(["cpu", "gpu"]),
)
@settings(max_examples=200, deadline=None)
def test_the_largest_context_fits_and_the_next_does_not(
    engine: str, free: int, sequences: int, window: int, place: str
) -> None:
    facts = facts_with(
        weights={"BF16": GIB},
        caches=(Cache(layers=16, numbers=1024, window=window), Cache(layers=4, numbers=2048)),
    )
    use = Use(engine, 1, sequences, place="gpu" if place == "gpu" else "cpu")
    found = largest_context(facts, use, free)
    assert 0 <= found <= 8192
    if found:
        assert need(facts, use._replace(context=found)).total <= free
    if found < 8192:
        assert need(facts, use._replace(context=found + 1)).total > free


def test_a_verdict_says_how_much_fits() -> None:
    whole = judge(GGUF, Use("llamacpp", 8192), 28 * GIB)
    assert (whole.fits, whole.whole, whole.largest, whole.mapped) == (True, True, 8192, False)
    assert whole.use.sequences == 8
    less = judge(GGUF, Use("llamacpp", 8192), 6 * GIB)
    assert (less.fits, less.whole, less.mapped) == (True, False, False)
    assert 512 < less.largest < 8192
    assert not judge(GGUF, Use("llamacpp", 8192), 6 * GIB, context_asked=True).fits
    none = judge(GGUF, Use("llamacpp", 512), 2 * GIB)
    assert (none.fits, none.largest, none.mapped) == (False, 0, True)
    torch = judge(facts_with(), Use("torch", 512), 15 * GIB)
    assert (torch.fits, torch.mapped) == (False, False)


def test_llama_cpp_itself_chooses_less_than_fits() -> None:
    use = Use("llamacpp", 8192)
    half = judge(GGUF, use, 16 * GIB)
    assert (half.largest, half.whole, half.fits) == (8192, False, True)
    assert half.chosen % 256 == 0
    assert half.chosen < 4096 + 256
    asked = judge(GGUF, use, 16 * GIB, context_asked=True)
    assert (asked.largest, asked.chosen, asked.whole) == (8192, 8192, True)
    assert judge(GGUF, use, 6 * GIB).chosen == 4096  # It takes no less, and may then fail.
    assert judge(facts_with(), Use("torch", 8192), 20 * GIB).chosen == 8192


def test_what_llama_cpp_chooses_is_what_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "long.gguf"
    content = DEMO.read_bytes()
    at = content.index(KEY) + len(KEY)
    path.write_bytes(content[:at] + (10**6).to_bytes(4, "little") + content[at + 4 :])
    facts = facts_of(LocalModel(name="long", path=str(path), format="gguf"))
    assert facts is not None
    free = 400 << 20
    monkeypatch.setattr("openllm.engines.llamacpp_load.free_memory", lambda: free)
    with openllm.LLM(str(path)) as llm, caplog.at_level("WARNING", "openllm.engines"):
        llm.sync_generate("x", max_new_tokens=1)
    (context,) = re.findall(r"(\d+) of its 1000000 tokens of context fit", caplog.text)
    told = chosen_context(facts, Use("llamacpp", 10**6, 8), free)
    assert int(context) == pytest.approx(told, rel=0.1)


def test_the_server_is_counted_once_where_the_processor_computes() -> None:
    use = Use("torch", 512)
    assert judge(facts_with(), use, 0).need.total == need(facts_with(), use).total + SERVER_BYTES
    use = use._replace(place="gpu")
    assert judge(facts_with(), use, 0).need.total == need(facts_with(), use).total


def test_the_least_is_one_short_sequence() -> None:
    use = Use("llamacpp", 8192, 64)
    assert least_need(GGUF, use) == need(GGUF, Use("llamacpp", 512, 1))
    assert least_need(GGUF, use._replace(context=100)) == need(GGUF, Use("llamacpp", 100, 1))


@pytest.mark.parametrize(
    ("engine", "load", "cards", "expected"),
    [
        ("llamacpp", LoadOptions(), (1,), Use("llamacpp", 8192)),
        ("torch", LoadOptions(), (), Use("torch", 8192)),
        ("torch", LoadOptions(), (1,), Use("torch", 8192, place="gpu")),
        ("torch", LoadOptions(), None, Use("torch", 8192, place="gpu")),
        ("torch", LoadOptions(device="cpu"), (1,), Use("torch", 8192)),
        ("torch", LoadOptions(device="cpu"), None, Use("torch", 8192)),
        ("torch", LoadOptions(device="cuda:1"), (1, 1), Use("torch", 8192, place="gpu")),
        (
            "vllm",
            LoadOptions(context_length=100, max_concurrency=3, dtype="float16"),
            (),
            Use("vllm", 100, 3, "float16"),
        ),
        ("llamacpp", LoadOptions(context_length=9000), (), Use("llamacpp", 8192)),
    ],
)
def test_options_say_how_a_model_is_run(
    engine: str, load: LoadOptions, cards: tuple[int, ...] | None, expected: Use
) -> None:
    assert use_of(facts_with(), engine, load, cards=cards) == expected


@pytest.mark.parametrize(
    ("engine", "load", "numbers"),
    [
        ("torch", LoadOptions(), (0, 1, 2)),
        ("torch", LoadOptions(device="gpu"), (0, 1, 2)),
        ("torch", LoadOptions(device="gpu:1"), (1,)),
        ("vllm", LoadOptions(), (0,)),
        ("vllm", LoadOptions(device="cuda:2"), (2,)),
        ("vllm", LoadOptions(engine_arg=("tensor-parallel-size=2",)), (0, 1, 2)),
        ("vllm", LoadOptions(engine_arg=("max_num_seqs=2",)), (0,)),
    ],
)
def test_an_engine_fills_these_cards(
    engine: str, load: LoadOptions, numbers: tuple[int, ...]
) -> None:
    assert cards_of(engine, load, 3) == numbers


def test_a_card_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"\(cuda:3\).* which has 3 CUDA cards") as raised:
        cards_of("torch", LoadOptions(device="gpu:3"), 3)
    assert raised.value.param == "device"


def test_a_model_without_a_limit_gets_the_context_that_engines_give_it() -> None:
    assert own_context(facts_with(context_length=None)) == 4096
    asked = use_of(
        facts_with(context_length=None), "torch", LoadOptions(context_length=9000), cards=()
    )
    assert asked.context == 9000
