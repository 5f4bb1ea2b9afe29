"""What is drawn: by which distribution, and that a row's draws are its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openllm.engines import torch_sampling
from openllm.engines.torch_sampling import Sampler, SequenceSampling
from openllm.engines.torch_truncation import invert
from openllm.types import SamplingParams

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


DRAWS = 10_000


def fits(counts: Counter[int], weights: Sequence[float]) -> bool:
    """Whether counts are likely under the weights: chi-square within 4 deviations of its mean."""
    total = sum(weights)
    drawn = sum(counts.values())
    expected = [weight / total * drawn for weight in weights]
    if any(counts[at] for at, count in enumerate(expected) if count == 0):
        return False
    terms = [(counts[at] - count) ** 2 / count for at, count in enumerate(expected) if count]
    freedom = max(1, len(terms) - 1)
    return sum(terms) < freedom + 4 * math.sqrt(2 * freedom)


def drawn(logits: torch.Tensor, params: SamplingParams, count: int = DRAWS) -> Counter[int]:
    """Count what one sequence draws from the same logits again and again."""
    rows = [SequenceSampling(params, index, [], len(logits)) for index in range(100)]
    sampler = Sampler(len(logits), CPU)
    batch = logits.expand(100, -1)
    return Counter(
        token_id for _ in range(count // 100) for token_id in sampler.sample(batch, rows).token_ids
    )


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_shapes_the_distribution(temperature: float) -> None:
    logits = torch.linspace(-2, 1, 40)
    weights = [math.exp(each / temperature) for each in logits.tolist()]
    counts = drawn(logits, SamplingParams(temperature=temperature, seed=0))
    assert fits(counts, weights)
    assert not fits(counts, [weight**1.15 for weight in weights])


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize(
    ("params", "weights"),
    [
        ({}, [0.4, 0.3, 0.2, 0.1]),
        ({"top_p": 0.69}, [0.4, 0.3, 0, 0]),
        ({"top_p": 0.7}, [0.4, 0.3, 0, 0]),
        ({"top_p": 0.71}, [0.4, 0.3, 0.2, 0]),
        ({"top_k": 3}, [0.4, 0.3, 0.2, 0]),
        ({"top_k": 3, "top_p": 0.7}, [0.4, 0.3, 0, 0]),  # 0.63 of what top_k left.
        ({"min_p": 0.45}, [0.4, 0.3, 0.2, 0]),
        ({"min_p": 0.55}, [0.4, 0.3, 0, 0]),
        # Cut at temperature 1, then flattened.
        ({"top_p": 0.7, "temperature": 2.0}, [math.sqrt(0.4), math.sqrt(0.3), 0, 0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab", [4, 300])
def test_truncation_keeps_what_it_should(
    params: dict[str, Any], weights: list[float], vocab: int
) -> None:
    logits = torch.full((vocab,), -torch.inf)
    places = [vocab // 4 * at for at in (2, 0, 3, 1)]
    logits[places] = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    counts = drawn(logits, SamplingParams(seed=0, **params))
    assert fits(Counter({at: counts[place] for at, place in enumerate(places)}), weights)
    assert sum(counts[place] for place in places) == DRAWS


def test_a_wide_vocabulary_is_drawn_from_evenly() -> None:
    logits = torch.zeros(10_007)  # More than is summed up in one piece, and no multiple of blocks.
    counts = drawn(logits, SamplingParams(seed=0))
    parts = Counter({at: sum(counts[i] for i in range(at, 10_007, 59)) for at in range(59)})
    assert fits(parts, [len(range(at, 10_007, 59)) for at in range(59)])
    assert max(counts) > 9800


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9000),
    st.integers(0, 2**20),
    st.floats(0, 1, exclude_max=True) | st.just(1 - 2**-53),
)
def test_a_draw_inverts_the_distribution_function(width: int, seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(1, width, generator=generator)
    weights[weights < 0.4] = 0
    weights[0, seed % width] = 1
    at = int(invert(weights, torch.tensor([share], dtype=torch.float64)))
    reached = (weights[0].double().cumsum(0) / weights.double().sum()).tolist()
    assert weights[0, at] > 0
    assert share <= reached[at] + 1e-6
    assert at == 0 or reached[at - 1] <= share + 1e-6


WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.8},
    {"min_p": 0.05},
    {"top_k": 5},
    {"top_k": 64},
    {"top_k": 300},
    {"top_p": 0.3},
    {"top_p": 0.95},
    {"top_k": 50, "top_p": 0.9, "temperature": 1.3},
    {"repetition_penalty": 1.1},
    {"top_p": 0.99, "presence_penalty": 0.4, "logit_bias": {3: 2.0}},
    {"top_p": 0.0},
]


def generate(
    rows: list[SequenceSampling], logits: dict[SequenceSampling, torch.Tensor], sampler: Sampler
) -> dict[SequenceSampling, int]:
    batch = torch.stack([logits[row] for row in rows])
    token_ids = sampler.sample(batch, rows).token_ids
    for row, token_id in zip(rows, token_ids, strict=True):
        row.accept(token_id)
    return dict(zip(rows, token_ids, strict=True))


@pytest.mark.reliability("C-11")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", [300, 5001])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_seed_gives_the_same_alone_and_in_a_changing_batch(
    way: dict[str, Any], vocab: int, dtype: torch.dtype
) -> None:
    steps = 12
    generator = torch.Generator().manual_seed(vocab)
    own = [torch.randn(vocab, generator=generator).mul(3).to(dtype) for _ in range(steps)]

    def mine() -> SequenceSampling:
        return SequenceSampling(SamplingParams(seed=11, **way), 2, [1, 2], vocab)

    alone = mine()
    sampler = Sampler(vocab, CPU)
    expected = [generate([alone], {alone: each}, sampler)[alone] for each in own]
    order = Random(vocab)
    row = mine()
    others = [
        SequenceSampling(SamplingParams(**WAYS[at % len(WAYS)]), at, [3], vocab) for at in range(31)
    ]
    found = []
    for each in own:
        company = order.sample(others, order.choice([31, 31, 7]))
        rows = [row, *company]
        order.shuffle(rows)
        logits = {other: torch.randn(vocab, generator=generator).to(dtype) for other in company}
        found.append(generate(rows, logits | {row: each}, sampler)[row])
    assert found == expected


@pytest.mark.reliability("C-11")
def test_seeds_differ_and_sequence_i_has_seed_plus_i() -> None:
    logits = torch.zeros(1, 10_000)

    def said(index: int, **params: Any) -> tuple[int, ...]:
        row = SequenceSampling(SamplingParams(**params), index, [], 10_000)
        sampler = Sampler(10_000, CPU)
        return tuple(sampler.sample(logits, [row]).token_ids[0] for _ in range(4))

    assert len({said(0, seed=seed) for seed in range(-20, 20)}) == 40
    assert said(3, seed=4) == said(0, seed=7) == said(7, seed=0)
    assert said(2, seed=-1) == said(0, seed=1)
    assert said(0, seed=2**64 + 5) == said(0, seed=5)
    assert len({said(0) for _ in range(20)}) == 20


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("rounded", [True, False])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 6.0])
@pytest.mark.parametrize("vocab", [81, 1000, 6000])
def test_a_window_gives_what_sorting_gives(
    monkeypatch: pytest.MonkeyPatch, vocab: int, scale: float, rounded: bool
) -> None:
    params = [
        SamplingParams(seed=seed, top_k=top_k, top_p=top_p, min_p=min_p)
        for seed, (top_k, top_p, min_p) in enumerate(
            (top_k, top_p, min_p)
            for top_k in (0, 2, 50, 64)
            for top_p in (0.05, 0.6, 0.95, 1.0)
            for min_p in (0.0, 0.1)
            if top_k or top_p < 1
        )
    ]
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(len(params), vocab, generator=generator) * scale
    logits = logits.bfloat16() if rounded else logits

    def said() -> list[list[int]]:
        rows = [SequenceSampling(each, 0, [], vocab) for each in params]
        sampler = Sampler(vocab, CPU)
        return [sampler.sample(logits, rows).token_ids for _ in range(8)]

    windowed = said()
    monkeypatch.setattr(torch_sampling, "fits_window", lambda top_k, vocab: False)
    assert said() == windowed
