"""The size of the KV cache on a CPU."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openllm.engines.vllm_memory import (
    MOST_BYTES,
    WORKSPACE,
    KVPlan,
    bytes_per_token,
    plan_kv_cache,
)
from openllm.errors import ConfigurationError, OutOfMemoryError
from openllm.types import LocalModel

BLOCK = 16
PER_TOKEN = 2 * 3 * 2 * 64 * 2  # Keys and values of 3 layers, 2 heads of 64 numbers, 2 bytes each.


class FakeModel:
    """What vLLM's configuration says of a model."""

    max_model_len = 1024
    use_mla = False
    has_inner_state = False
    dtype = SimpleNamespace(itemsize=2)

    def get_num_kv_heads(self, _: object) -> int:
        return 2

    def get_num_layers(self, _: object) -> int:
        return 3

    def get_head_size(self) -> int:
        return 64


def config(places: int = 4, **of_model: Any) -> Any:
    model = FakeModel()
    for name, value in of_model.items():
        setattr(model, name, value)
    return SimpleNamespace(
        model_config=model,
        parallel_config=None,
        cache_config=SimpleNamespace(block_size=BLOCK, cache_dtype="auto"),
        scheduler_config=SimpleNamespace(max_num_seqs=places),
    )


@pytest.fixture
def model(tmp_path: Path) -> LocalModel:
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 1000)
    return LocalModel(name="m", path=str(tmp_path), format="safetensors")


def plan(
    model: LocalModel,
    free: int,
    context: int | None = None,
    asked: int | None = None,
    of: Any = None,
) -> KVPlan:
    return plan_kv_cache(model, of or config(), free, context, asked)


def needing(tokens: int) -> int:
    """Return the memory that leaves room for so many tokens, in half of what is free."""
    return 2 * (tokens + 2 * BLOCK) * PER_TOKEN + WORKSPACE + 1000


def test_a_token_has_keys_and_values_in_every_layer() -> None:
    assert bytes_per_token(config()) == PER_TOKEN
    assert bytes_per_token(config(use_mla=True)) == PER_TOKEN // 2
    assert bytes_per_token(config(dtype=SimpleNamespace(itemsize=4))) == PER_TOKEN * 2


def test_all_places_get_a_full_context_where_memory_allows(model: LocalModel) -> None:
    assert plan(model, 64 << 30).tokens == 4 * 1024


def test_unasked_it_takes_no_more_than_half(model: LocalModel) -> None:
    found = plan(model, needing(2000))
    assert (found.context, found.tokens) == (1024, 2000)


def test_unasked_it_is_not_larger_than_some_gigabytes(model: LocalModel) -> None:
    found = plan(model, 512 << 30, of=config(places=10_000))
    assert found.size == pytest.approx(MOST_BYTES, rel=0.01)


def test_a_context_that_does_not_fit_is_cut_with_a_warning(
    model: LocalModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        found = plan(model, needing(500))
    assert (found.context, found.tokens) == (500, 500)
    assert "500 of its 1024 tokens" in caplog.text


@pytest.mark.reliability("F-06")
def test_a_context_that_was_asked_for_is_not_cut(model: LocalModel) -> None:
    with pytest.raises(OutOfMemoryError, match=r"needs about .*B of .* and .*B are free"):
        plan(model, needing(500), context=1024)


@pytest.mark.reliability("F-06")
@pytest.mark.parametrize("free", [0, 1000, WORKSPACE])
def test_where_nothing_fits_need_and_free_are_named(model: LocalModel, free: int) -> None:
    with pytest.raises(OutOfMemoryError, match=r"needs about .*B of .* and .*B are free"):
        plan(model, free)


def test_tokens_asked_for_are_taken_as_they_are(model: LocalModel) -> None:
    assert plan(model, 64 << 30, asked=5000).tokens == 5000
    with pytest.raises(OutOfMemoryError, match="kv_cache_tokens"):
        plan(model, 64 << 30, asked=10**9)


def test_fewer_tokens_than_a_context_shorten_it(model: LocalModel) -> None:
    assert plan(model, 64 << 30, asked=100).context == 100
    with pytest.raises(ConfigurationError, match="kv_cache_tokens=100 is less than"):
        plan(model, 64 << 30, context=512, asked=100)


def test_a_model_with_a_state_of_its_own_is_not_counted_in_tokens(model: LocalModel) -> None:
    assert plan(model, 64 << 30, of=config(has_inner_state=True)).size == MOST_BYTES
