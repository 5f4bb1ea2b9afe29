"""The window of keys and values, against plain concatenation."""

from __future__ import annotations

import random

import pytest
import torch

from openllm.engines.torch_cache import KVWindow
from openllm.engines.torch_model import RowState
from openllm.engines.torch_prefix import LEAST, PrefixStore


@pytest.mark.parametrize("seed", range(60))
def test_rows_that_join_and_leave_keep_what_they_hold(seed: int) -> None:
    chance = random.Random(seed)
    torch.manual_seed(seed)
    limit = chance.choice((0, 100, 10_000))
    window = KVWindow(0, 8, 6, limit)
    rows: list[torch.Tensor] = []
    most = 8
    for _ in range(40):
        dice = chance.random()
        if dice < 0.3 and len(rows) < 6:
            new = torch.randn(1, 2, chance.randint(1, 20), 4)
            window.join([(new, new + 1), (new * 2, new - 1)])
            rows.append(new[0])
        elif dice < 0.45 and rows:
            row = chance.randrange(len(rows))
            last = rows.pop()
            if row < len(rows):
                rows[row] = last
            window.leave(row, max((held.shape[1] for held in rows), default=0))
        elif rows:
            rows = _write(window, rows)
        needed = len(rows) * max((held.shape[1] for held in rows), default=0)
        most = max(most, needed)
        assert needed <= window.held <= max(limit, most)


def _write(window: KVWindow, rows: list[torch.Tensor]) -> list[torch.Tensor]:
    """Write a token to each row and check what the model would see of it."""
    window.make_room(1)
    new = torch.randn(len(rows), 2, 1, 4)
    keys, _ = window.update(new, new + 1, 0)
    _, values = window.update(new * 2, new - 1, 1)
    window.advance(1)
    rows = [torch.cat([held, token], 1) for held, token in zip(rows, new, strict=True)]
    assert keys.shape[2] == max(held.shape[1] for held in rows)
    for row, held in enumerate(rows):
        tokens = held.shape[1]
        assert torch.equal(keys[row, :, -tokens:], held)
        assert torch.equal(values[row, :, -tokens:], held - 1)
        stored = window.row(row, tokens)
        assert torch.equal(stored[0][1][0], held + 1)
    return rows


def test_numbers_that_are_not_finite_do_not_stay() -> None:
    window = KVWindow(0, 8, 2, 100)
    spoilt = torch.tensor([[[[1.0], [torch.nan], [torch.inf], [2.0]]]])
    window.join([(spoilt, -spoilt)])
    window.scrub()
    assert window.row(0, 4)[0][1].flatten().tolist() == [-1.0, 0.0, 0.0, -2.0]


def state(tokens: int) -> RowState:
    value = torch.arange(tokens, dtype=torch.float32).reshape(1, 1, tokens, 1)
    return RowState([(value, value)])


def test_the_longest_shared_beginning_is_found() -> None:
    store = PrefixStore(1000)
    one = list(range(100))
    store.keep(one, state(100))
    store.keep([*one[:50], *range(500, 540)], state(90))
    found = store.find([*one[:50], *range(500, 530), 7, 7])
    assert found is not None
    assert found.tokens == 80
    assert found.cached[0][0].flatten().tolist() == list(range(80))


def test_a_prompt_is_never_found_whole() -> None:
    store = PrefixStore(1000)
    store.keep(list(range(100)), state(100))
    found = store.find(list(range(100)))
    assert found is not None
    assert found.tokens == 99


def test_short_or_unlike_beginnings_are_not_used() -> None:
    store = PrefixStore(1000)
    store.keep(list(range(100)), state(100))
    assert store.find([*range(LEAST - 1), 999, 998]) is None
    assert store.find([999, *range(1, 100)]) is None


def test_the_least_recently_used_makes_room() -> None:
    store = PrefixStore(250)
    one, two, three = (list(range(at, at + 100)) for at in (0, 1000, 2000))
    store.keep(one, state(100))
    store.keep(two, state(100))
    assert store.find([*one, 1]) is not None
    store.keep(three, state(100))
    assert store.find([*two, 1]) is None
    assert store.find([*one, 1]) is not None
    assert store.tokens == 200


def test_a_longer_turn_replaces_the_one_it_continues() -> None:
    store = PrefixStore(1000)
    store.keep(list(range(100)), state(100))
    store.keep(list(range(150)), state(150))
    assert store.tokens == 150
