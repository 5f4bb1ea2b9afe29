"""Characters that take several tokens are never sent in halves."""

from __future__ import annotations

import pytest

from tests.contract.subject import Subject, cut

pytestmark = pytest.mark.anyio


@pytest.mark.reliability("C-04")
async def test_characters_of_several_tokens_arrive_whole(subject: Subject) -> None:
    answer = await subject.greedy(max_tokens=96, **subject.polyglot)
    assert len(answer.text.encode()) > len(answer.text)
    assert "\ufffd" not in answer.text[:-1]
    for text in answer.texts[:-1]:
        assert text.encode().decode() == text
        assert "\ufffd" not in text
    if subject.reports_split_tokens:
        decoded = await subject.engine.detokenize(answer.token_ids)
        assert answer.text in (decoded, decoded.removesuffix("\ufffd"))


@pytest.mark.reliability("C-04")
async def test_text_cut_anywhere_ends_the_same_way(subject: Subject) -> None:
    whole = await subject.greedy(max_tokens=40, **subject.polyglot)
    for limit in range(1, 40):
        answer = await subject.greedy(max_tokens=limit, **subject.polyglot)
        again = await subject.greedy(max_tokens=limit, **subject.polyglot)
        assert answer.text == again.text
        assert whole.text.startswith(answer.text.removesuffix("\ufffd"))
        assert answer.usage.completion_tokens == limit
        if subject.reports_split_tokens:
            assert answer.token_ids == whole.token_ids[:limit]


@pytest.mark.reliability("C-03", "C-04")
async def test_a_stop_string_of_several_tokens_cuts(subject: Subject) -> None:
    whole = await subject.greedy(max_tokens=40, **subject.polyglot)
    for stop in sorted({char for char in whole.text if not char.isascii()} - {"\ufffd"}):
        answer = await subject.greedy(max_tokens=40, stop=(stop,), **subject.polyglot)
        assert (answer.text, answer.finish_reason) == (cut(whole.text, [stop]), "stop")


@pytest.mark.reliability("C-04")
async def test_bytes_that_are_no_text_break_nothing(subject: Subject) -> None:
    first, *_ = await subject.engine.tokenize("🚲", special=False)
    answer = await subject.greedy("Hi", 6, logit_bias={first: 100.0}, logprobs=0)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 6)
    assert set(answer.text) <= {"\ufffd"}
    if subject.reports_split_tokens:
        assert answer.text in ("\ufffd" * 6, "\ufffd" * 5)
        assert [each.bytes for each in answer.logprobs] == [(0xF0,)] * 6
