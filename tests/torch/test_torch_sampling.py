"""Every sampling parameter does what a plain float64 reference says, alone and mixed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openllm.engines.torch_sampling import Sampled, Sampler, SequenceSampling
from openllm.errors import EngineError, InvalidRequestError
from openllm.types import SamplingParams

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep torch's threads from waiting for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Below and above the window, and above the width that is summed up in one piece.
WIDTHS = (7, 80, 81, 300, 5000)


def rows_of(
    params: Sequence[SamplingParams], vocab: int, prompt: Sequence[int] = ()
) -> list[SequenceSampling]:
    return [SequenceSampling(each, 0, prompt, vocab) for each in params]


def sample(logits: torch.Tensor, rows: Sequence[SequenceSampling]) -> Sampled:
    return Sampler(logits.shape[1], CPU).sample(logits, rows)


def one(logits: Sequence[float] | torch.Tensor, prompt: Sequence[int] = (), **params: Any) -> int:
    row = torch.as_tensor(logits, dtype=torch.float32).unsqueeze(0)
    (token_id,) = sample(row, rows_of([SamplingParams(**params)], row.shape[1], prompt)).token_ids
    return token_id


def reference(
    logits: np.ndarray[Any, Any], params: SamplingParams, seen: Counter[int], slack: float = 0.0
) -> np.ndarray[Any, Any]:
    """Return the probability of every token; `slack` moves the borders of `top_p` and `min_p`."""
    single = np.float32  # As equals have to stay equals, logits are changed in the same precision.
    x = logits.copy()
    for token_id, bias in params.logit_bias.items():
        x[token_id] += single(bias)
    for token_id, count in seen.items():
        scale = single(params.repetition_penalty)
        x[token_id] = x[token_id] / scale if x[token_id] > 0 else x[token_id] * scale
        x[token_id] -= single(params.presence_penalty)
        x[token_id] -= single(params.frequency_penalty) * single(count)
    x = x.astype(np.float64)
    order = np.argsort(-x, kind="stable")
    if params.temperature <= 1e-5 or params.top_p < 1e-8:
        return np.eye(len(x))[order[0]]
    kept = order[: params.top_k or None]
    weights = np.exp(x[kept] - x[kept[0]])
    reached = np.cumsum(weights) / weights.sum()
    limit = np.searchsorted(reached, params.top_p * (1 - 1e-6 + slack)) + 1
    kept = kept[: limit if params.top_p < 1 else None]
    if params.min_p > 0:
        kept = kept[x[kept] - x[order[0]] >= min(math.log(params.min_p) + slack, 0.0)]
    result = np.zeros(len(x))
    result[kept] = np.exp((x[kept] - x[order[0]]) / params.temperature)
    return result / result.sum()


LOGITS = st.builds(
    lambda vocab, seed, scale, rounded: (vocab, seed, scale, rounded),
    st.sampled_from(WIDTHS),
    st.integers(0, 2**20),
    st.sampled_from([0.0, 0.3, 2.0, 8.0]),
    st.booleans(),
)


def make_logits(count: int, vocab: int, seed: int, scale: float, rounded: bool) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, vocab, generator=generator) * scale
    return logits.bfloat16() if rounded else logits  # Rounded logits have many equals.


def params_of(vocab: int) -> st.SearchStrategy[SamplingParams]:
    number = st.floats(-3, 3, width=32)
    return st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 1e-5, 0.1, 0.7, 1.0, 1.5]),
        top_k=st.sampled_from([0, 0, 1, 2, 40, 64, 65, 200, 10_000]),
        top_p=st.sampled_from([1.0, 1.0, 0.0, 0.1, 0.5, 0.9, 0.999]),
        min_p=st.sampled_from([0.0, 0.0, 0.02, 0.3, 1.0]),
        seed=st.integers(0, 2**62),
        presence_penalty=st.just(0.0) | number,
        frequency_penalty=st.just(0.0) | number,
        repetition_penalty=st.sampled_from([1.0, 1.0, 0.5, 1.3]),
        logit_bias=st.just({})
        | st.dictionaries(st.integers(0, vocab - 1), st.sampled_from([-100.0, -1.5, 3.0, 100.0])),
    )


@pytest.mark.reliability("C-23")
@settings(max_examples=200, deadline=None)
@given(st.data(), LOGITS)
def test_any_mixture_of_rows_follows_the_reference(
    data: st.DataObject, shape: tuple[int, int, float, bool]
) -> None:
    vocab = shape[0]
    params = data.draw(st.lists(params_of(vocab), min_size=1, max_size=5))
    prompt = data.draw(st.lists(st.integers(0, vocab - 1), max_size=12))
    logits = make_logits(len(params), *shape)
    before = logits.clone()
    rows = rows_of(params, vocab, prompt)
    seen = Counter(prompt)
    for token_id in data.draw(st.lists(st.integers(0, vocab - 1), max_size=3)):
        seen[token_id] += 1
        for row in rows:
            row.accept(token_id)
    token_ids = sample(logits, rows).token_ids
    assert torch.equal(logits, before)
    for at, (token_id, asked) in enumerate(zip(token_ids, params, strict=True)):
        values = logits[at].float().numpy()
        weights = reference(values, asked, seen)
        for slack in (-3e-6, 3e-6):  # A border that float32 cannot place is no test.
            other = reference(values, asked, seen, slack)
            assume(np.array_equal(weights > 0, other > 0))
        assert weights[token_id] > 0
        reached = np.cumsum(weights)
        number = Random(asked.seed).random()
        if np.count_nonzero(weights) > 1:
            assert reached[token_id] - weights[token_id] <= number + 1e-5
            assert number <= reached[token_id] + 1e-5


@pytest.mark.spec("S1-21")
@pytest.mark.parametrize(
    "params", [{"temperature": 0.0}, {"temperature": 1e-5}, {"top_p": 9e-9}, {"top_k": 1}], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("vocab", [*WIDTHS, 50257])
def test_greedy_takes_the_largest_and_the_lowest_id_of_equals(
    params: dict[str, float], dtype: torch.dtype, vocab: int
) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randint(-2, 3, (9, vocab), generator=generator).to(dtype)
    sampled = sample(logits, rows_of([SamplingParams(**params)] * 9, vocab))
    largest = logits.float().numpy()
    assert sampled.token_ids == largest.argmax(-1).tolist()
    penalised = SamplingParams(**params, frequency_penalty=1e-30)
    assert sample(logits, rows_of([penalised] * 9, vocab, [0])).token_ids == sampled.token_ids


@pytest.mark.spec("S1-21")
def test_just_above_the_limits_is_no_longer_greedy() -> None:
    flat = [0.0] * 50
    assert len({one(flat, temperature=1.1e-5, seed=seed) for seed in range(20)}) > 5
    assert len({one(flat, top_p=0.5, seed=seed) for seed in range(20)}) > 5
    assert {one(flat, top_p=1.1e-8, seed=seed) for seed in range(20)} == {0}


@pytest.mark.spec("S1-31")
def test_repetition_counts_the_prompt_and_what_was_said() -> None:
    logits = torch.tensor([[2.0, 1.9, 1.8, -1.0]])
    (row,) = rows_of([SamplingParams(temperature=0.0, repetition_penalty=2.0)], 4, [0, 0])
    assert sample(logits, [row]).token_ids == [1]
    row.accept(1)
    assert sample(logits, [row]).token_ids == [2]
    for token_id in (2, 3):
        row.accept(token_id)
    assert sample(logits, [row]).token_ids == [0]


@pytest.mark.reliability("C-23")
def test_penalties_grow_as_the_reference_says() -> None:
    params = SamplingParams(
        temperature=0.0, presence_penalty=0.25, frequency_penalty=0.5, repetition_penalty=1.1
    )
    vocab = 200
    rows = rows_of([params], vocab, [*range(100), *range(50)])
    seen = Counter([*range(100), *range(50)])
    sampler = Sampler(vocab, CPU)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        logits = torch.randn(1, vocab, generator=generator) * 3
        (token_id,) = sampler.sample(logits, rows).token_ids
        assert token_id == reference(logits[0].numpy(), params, seen).argmax()
        rows[0].accept(token_id)
        seen[token_id] += 1


def test_tokens_that_the_model_never_scores_are_not_penalised() -> None:
    logits = [0.0, 1.0, 2.0]
    assert one(logits, [2, 3, 7], temperature=0.0, repetition_penalty=9.0) == 1


@pytest.mark.reliability("C-23")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_of_100_forces_and_of_minus_100_bans(temperature: float) -> None:
    logits = torch.randn(1000, generator=torch.Generator().manual_seed(1)) * 4
    best = int(logits.argmax())
    for seed in range(20):
        asked = {"temperature": temperature, "seed": seed}
        assert one(logits, logit_bias={3: 100.0}, **asked) == 3
        assert one(logits, logit_bias={best: -100.0}, **asked) != best


@pytest.mark.parametrize("token_id", [-1, 5])
def test_a_bias_of_no_token_is_refused(token_id: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"{token_id} is no token id") as caught:
        rows_of([SamplingParams(logit_bias={token_id: 1.0})], 5)
    assert caught.value.param == "logit_bias"


@pytest.mark.reliability("C-10")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("vocab", WIDTHS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logprobs_are_the_models_own(vocab: int, dtype: torch.dtype, temperature: float) -> None:
    logits = (torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab)) * 4).to(dtype)
    asked = [None, 0, 1, 5, 20, 9999]
    params = [
        SamplingParams(logprobs=count, temperature=temperature, seed=1, logit_bias={2: 1.0})
        for count in asked
    ]
    sampled = sample(logits, rows_of(params, vocab, [1]))
    expected = logits.double().log_softmax(-1).numpy()
    assert sampled.logprobs[0] is None
    for at in range(1, 6):
        found = sampled.logprobs[at]
        assert found is not None
        order = np.argsort(-logits[at].float().numpy(), kind="stable")[: asked[at]]
        assert found.top_ids == order.tolist()
        assert found.top == sorted(found.top, reverse=True)
        assert found.top == pytest.approx(expected[at][order].tolist(), abs=1e-4)
        chosen = expected[at][sampled.token_ids[at]]
        assert found.chosen == pytest.approx(chosen, abs=1e-4)
        assert found.chosen <= 0
        assert sum(map(math.exp, found.top)) <= 1 + 1e-4


@pytest.mark.reliability("C-10")
def test_the_greedy_token_leads_its_alternatives_among_equals_too() -> None:
    logits = torch.zeros(1, 500)
    (found,) = sample(logits, rows_of([SamplingParams(temperature=0.0, logprobs=3)], 500)).logprobs
    assert found is not None
    assert (found.top_ids, found.chosen) == ([0, 1, 2], pytest.approx(-math.log(500)))


WAYS: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 0.0, "logit_bias": {1: 1.0}},
    {},
    {"min_p": 0.1},
    {"top_k": 20},
    {"top_k": 70},
    {"top_p": 0.9},
    {"top_p": 0.9, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("spoilt", [math.nan, math.inf, None], ids=str)
@pytest.mark.parametrize("vocab", [7, 300, 5000])
def test_a_row_that_is_no_number_leaves_the_others_as_they_are(
    spoilt: float | None, vocab: int
) -> None:
    params = [SamplingParams(**way, seed=1, logprobs=2) for way in WAYS for _ in range(2)]
    logits = torch.randn(len(params), vocab, generator=torch.Generator().manual_seed(0))
    whole = sample(logits, rows_of(params, vocab, [1]))
    if spoilt is None:
        logits[::2] = -torch.inf
    else:
        logits[::2, vocab // 2] = spoilt
    rows = rows_of(params, vocab, [1])
    sampled = sample(logits, rows)
    assert set(sampled.token_ids[::2]) == {-1}
    assert set(sampled.logprobs[::2]) == {None}
    assert sampled.token_ids[1::2] == whole.token_ids[1::2]
    assert sampled.logprobs[1::2] == whole.logprobs[1::2]
    assert isinstance(rows[0].failure(), EngineError)
    assert "not finite" in rows[0].failure().message


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((len(WAYS), 300), -torch.inf)
    logits[:, [7, 290]] = 1.0
    for seed in range(20):
        rows = rows_of([SamplingParams(**way, seed=seed) for way in WAYS], 300)
        assert set(sample(logits, rows).token_ids) <= {7, 290}


def test_no_rows_give_no_tokens() -> None:
    assert sample(torch.empty(0, 10), []) == ([], [])


class MovedLogits:
    """Logits on an MPS device, as far as sampling may look at them there."""

    device = torch.device("mps")

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits
        self.moves: list[tuple[Any, ...]] = []

    def to(self, *args: Any) -> torch.Tensor:
        self.moves.append(args)
        return self._logits.to(*args)


@pytest.mark.spec("S1-33")
def test_logits_on_mps_are_moved_to_the_cpu_as_float() -> None:
    logits = torch.randn(len(WAYS), 300, generator=torch.Generator().manual_seed(5)).half()
    rows = rows_of([SamplingParams(**way, seed=2, logprobs=3) for way in WAYS], 300)
    moved: Any = MovedLogits(logits)
    sampled = Sampler(300, torch.device("mps")).sample(moved, rows)
    assert moved.moves == [("cpu", torch.float32)]
    same = rows_of([SamplingParams(**way, seed=2, logprobs=3) for way in WAYS], 300)
    assert sampled == sample(logits, same)
