"""One sequence of the scripted engine: which token comes next.

Every step has a distribution, as a model's has: a scripted token is nearly certain, a rule's
`distribution` is itself, and a token that only `logit_bias` names starts from `FLOOR`. So a bias
of 100 forces a token and one of -100 ends the text where the script goes on with that token.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from random import Random

from openllm.engines.request_checks import check_ranges, check_tokens, penalises
from openllm.engines.scripted_rules import Answer
from openllm.engines.scripted_tokens import END_IDS, IM_END_ID, Vocabulary
from openllm.engines.sequence_output import MadeToken, SequenceOutput, token_logprob
from openllm.errors import UnsupportedError
from openllm.types import CompletionChunk, SamplingParams, TokenLogprob, Usage

SURE = math.log(0.9)  # Logprob of a scripted token; its fake alternatives share 0.1 less a bit.
FLOOR = -50.0


def adjust(logits: dict[int, float], params: SamplingParams, counts: Counter[int]) -> None:
    """Apply penalties and biases in place; `counts` are the tokens of prompt and output."""
    for token_id, bias in params.logit_bias.items():
        logits[token_id] = logits.get(token_id, FLOOR) + bias
    if params.logit_bias:
        logits.setdefault(IM_END_ID, FLOOR)
    for token_id in logits.keys() & counts.keys():
        logit = logits[token_id]
        scale = params.repetition_penalty
        logit = logit / scale if logit > 0 else logit * scale
        penalty = params.presence_penalty + params.frequency_penalty * counts[token_id]
        logits[token_id] = logit - penalty


def truncate(logits: dict[int, float], params: SamplingParams) -> list[tuple[int, float]]:
    """Keep the likeliest tokens: by `top_k`, then `top_p`, then `min_p`, as llama.cpp orders them.

    Returns:
        Token ids with their probabilities at temperature 1, likeliest first, not normalised.
    """
    ranked = sorted(logits.items(), key=lambda item: -item[1])
    ranked = ranked[: params.top_k or None]
    best = ranked[0][1]
    weights = [(token_id, math.exp(logit - best)) for token_id, logit in ranked]
    goal = params.top_p * sum(weight for _, weight in weights)
    kept: list[tuple[int, float]] = []
    reached = 0.0
    for token_id, weight in weights:
        if kept and (reached >= goal - 1e-9 or weight < params.min_p - 1e-9):
            break
        kept.append((token_id, weight))
        reached += weight
    return kept


def sample(logits: dict[int, float], params: SamplingParams, rng: Random) -> int:
    """Draw one token id; temperature 0 takes the likeliest, the first of equals."""
    if params.temperature == 0:
        return max(logits, key=logits.__getitem__)
    kept = truncate(logits, params)
    weights = [weight ** (1.0 / params.temperature) for _, weight in kept]
    return rng.choices([token_id for token_id, _ in kept], weights)[0]


def check_params(params: SamplingParams, vocabulary: Vocabulary) -> None:
    """Refuse what cannot be honoured.

    Raises:
        UnsupportedError: `json_schema` or `grammar` is given.
        InvalidRequestError: A value is out of range; the message names it.
    """
    for name in ("json_schema", "grammar"):
        if getattr(params, name) is not None:
            raise UnsupportedError(f"the scripted engine cannot follow a {name}", param=name)
    check_ranges(params)
    check_tokens(params, len(vocabulary))


class TokenSource:
    """The token ids of one sequence, one by one, and their logprobs."""

    def __init__(
        self,
        answer: Answer,
        params: SamplingParams,
        vocabulary: Vocabulary,
        prompt: Iterable[int],
        index: int,
    ) -> None:
        self._answer = answer
        self._params = params
        self.data = vocabulary.data
        self._made = 0
        self._samples = answer.logprobs is not None or bool(params.logit_bias)
        self.ends = frozenset(params.stop_token_ids) | (
            frozenset() if params.ignore_eos else END_IDS
        )
        if self._samples:
            seed = None if params.seed is None else params.seed + index
            self._rng = Random(seed)  # noqa: S311
            self._counts = Counter(prompt) if penalises(params) else Counter()

    def next(self) -> MadeToken:
        """Make one token."""
        at, self._made = self._made, self._made + 1
        if not self._samples and self._params.logprobs is None:
            return MadeToken(self._scripted(at), SURE)
        raw = self._raw(at)
        token_id = self._choose(raw) if self._samples else next(iter(raw))
        logprob = raw.get(token_id, FLOOR)
        if self._params.logprobs is None:
            return MadeToken(token_id, logprob)
        return MadeToken(token_id, logprob, self._report(token_id, raw, self._params.logprobs))

    def _scripted(self, at: int) -> int:
        ids = self._answer.ids
        if at < len(ids):
            return ids[at]
        return ids[at % len(ids)] if self._params.ignore_eos and ids else IM_END_ID

    def _raw(self, at: int) -> dict[int, float]:
        """Return the step's distribution before penalties and biases: ids with their logprobs."""
        answer = self._answer
        if answer.logprobs is None:
            return {self._scripted(at): SURE}
        ended = answer.length is not None and at >= answer.length
        return {IM_END_ID: SURE} if ended and not self._params.ignore_eos else answer.logprobs

    def _choose(self, raw: dict[int, float]) -> int:
        logits = dict(raw)
        adjust(logits, self._params, self._counts)
        token_id = sample(logits, self._params, self._rng)
        if penalises(self._params):
            self._counts[token_id] += 1
        return token_id

    def _report(self, token_id: int, raw: dict[int, float], count: int) -> TokenLogprob:
        known = dict(raw)
        if self._answer.logprobs is None:
            known |= _alternatives(next(iter(raw)))
        ranked = sorted(known.items(), key=lambda item: -item[1])[:count]
        if count and token_id not in dict(ranked):
            ranked.append((token_id, known.get(token_id, FLOOR)))
        top = tuple(self._logprob(*item) for item in ranked)
        return self._logprob(token_id, known.get(token_id, FLOOR), top)

    def _logprob(
        self, token_id: int, logprob: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        return token_logprob(token_id, self.data(token_id), logprob, top)


def _alternatives(token_id: int) -> dict[int, float]:
    """Invent what else a model might have said: letters that depend on the token said."""
    letters = [97 + (token_id + offset) % 26 for offset in range(1, 26)]
    return {
        letter: math.log(0.05) - rank * math.log(2)
        for rank, letter in enumerate(letter for letter in letters if letter != token_id)
    }


class ScriptedSequence:
    """A sequence being made: steps in, chunks out."""

    __slots__ = ("_output", "_source")

    def __init__(
        self, source: TokenSource, params: SamplingParams, index: int, limit: int, usage: Usage
    ) -> None:
        self._source = source
        self._output = SequenceOutput(params, index, source.ends, limit, usage)

    @property
    def made(self) -> int:
        """Tokens made so far, the one that ended the text not counted."""
        return self._output.made

    def step(self) -> CompletionChunk | None:
        """Make one token; return the chunk it completes, or None while its text is held."""
        made = self._source.next()
        return self._output.push(made, self._source.data(made.token_id))
