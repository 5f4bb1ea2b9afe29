"""Stop strings and stop tokens, cut from what the engine says anyway."""

from __future__ import annotations

import pytest

from tests.contract.subject import PROMPTS, Answer, Subject, cut

pytestmark = pytest.mark.anyio


async def spoken(subject: Subject, prompt: str = PROMPTS[0]) -> Answer:
    answer = await subject.greedy(prompt, 48)
    assert len(answer.text) >= 16, "the engine says too little to cut stop strings from"
    return answer


def pieces(text: str) -> list[str]:
    """Return substrings of several places and lengths that hold no replaced bytes."""
    found = [text[at : at + size] for at in range(3, 14, 2) for size in (1, 2, 3, 5, 8)]
    return [piece for piece in found if piece and "\ufffd" not in piece]


@pytest.mark.spec("S0-21")
@pytest.mark.reliability("C-01")
@pytest.mark.parametrize("prompt", PROMPTS[:3])
async def test_text_ends_before_the_stop_string(subject: Subject, prompt: str) -> None:
    text = (await spoken(subject, prompt)).text
    for stop in pieces(text):
        answer = await subject.greedy(prompt, 48, stop=(stop,))
        assert (answer.text, answer.finish_reason) == (cut(text, [stop]), "stop"), stop


@pytest.mark.reliability("C-03")
async def test_of_overlapping_stop_strings_the_first_to_end_wins(subject: Subject) -> None:
    text = (await spoken(subject)).text
    for piece in pieces(text):
        if len(piece) == 3:
            stops = (piece[:2], piece, piece[1:])
            answer = await subject.greedy(PROMPTS[0], 48, stop=stops)
            assert answer.text == cut(text, stops), stops


@pytest.mark.reliability("C-03")
async def test_the_earlier_of_two_stop_strings_wins(subject: Subject) -> None:
    text = (await spoken(subject)).text
    one, other = pieces(text)[-1], pieces(text)[0]
    for stops in ((one, other), (other, one)):
        assert (await subject.greedy(PROMPTS[0], 48, stop=stops)).text == cut(text, stops)


@pytest.mark.reliability("C-02")
async def test_a_tail_that_begins_a_stop_string_is_sent(subject: Subject) -> None:
    answer = await spoken(subject)
    tail = answer.text.rstrip("\ufffd")[-4:]
    again = await subject.greedy(PROMPTS[0], 48, stop=(tail + "\x01 never said",))
    assert again.text == answer.text
    assert again.finish_reason == answer.finish_reason
    assert again.token_ids == answer.token_ids


@pytest.mark.reliability("C-03")
async def test_a_stop_string_in_the_prompt_is_ignored(subject: Subject) -> None:
    plain = await subject.greedy("stop@@here", 24)
    answer = await subject.greedy("stop@@here", 24, stop=("op@@he",))
    assert answer.text == cut(plain.text, ["op@@he"])
    assert answer.text


@pytest.mark.reliability("C-03")
async def test_tokens_wholly_behind_the_cut_are_dropped(subject: Subject) -> None:
    plain = await spoken(subject)
    stop = pieces(plain.text)[-1]
    answer = await subject.greedy(PROMPTS[0], 48, stop=(stop,), logprobs=0)
    count = len(answer.token_ids)
    assert answer.token_ids == plain.token_ids[:count]
    before = await subject.engine.detokenize(answer.token_ids[:-1])
    assert len(before.rstrip("\ufffd")) <= len(answer.text)
    assert [each.token_id for each in answer.logprobs] == answer.token_ids
    assert count <= answer.usage.completion_tokens < 48


async def test_a_stop_token_ends_the_text_and_is_not_in_it(subject: Subject) -> None:
    plain = await spoken(subject)
    stop = plain.token_ids[10]
    at = plain.token_ids.index(stop)
    answer = await subject.greedy(PROMPTS[0], 48, stop_token_ids=(stop,))
    assert (answer.token_ids, answer.finish_reason) == (plain.token_ids[:at], "stop")
    decoded = await subject.engine.detokenize(plain.token_ids[:at])
    assert answer.text in (decoded, decoded.removesuffix("\ufffd"))
