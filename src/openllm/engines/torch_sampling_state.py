"""What one running sequence needs to be sampled: its own numbers, and the tokens it has seen."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from openllm.engines.request_checks import check_token, penalises
from openllm.engines.torch_grammar import GrammarMatcher
from openllm.engines.torch_penalties import TokenCounts
from openllm.errors import EngineError
from openllm.types import SamplingParams

FROZEN = 1e-5
"""Temperature up to which the likeliest token is taken."""
NUCLEUS = 1e-8
"""`top_p` below which the likeliest token is taken."""


class SequenceSampling:
    """How one running sequence is sampled; made once, lives until the sequence ends.

    Attributes:
        grammar: What its text is held to, if anything.
        greedy: It takes the likeliest token at every step and draws nothing.
        counts: The tokens seen, if they are penalised.
    """

    def __init__(
        self,
        params: SamplingParams,
        index: int,
        prompt_ids: Sequence[int],
        vocab_size: int,
        grammar: GrammarMatcher | None = None,
    ) -> None:
        """Begin sequence `index` of a request; raises `InvalidRequestError` for a bias of no token.

        Args:
            params: In range.
            prompt_ids: Tokens that the penalties count.
            vocab_size: Width of the logits.
            grammar: A matcher of this sequence alone.
        """
        for token_id in params.logit_bias:
            check_token(token_id, vocab_size, "logit_bias")  # Would change another row.
        self.params = params
        self.grammar = grammar
        self.greedy = params.temperature <= FROZEN or params.top_p < NUCLEUS or params.top_k == 1
        self.counts = TokenCounts(prompt_ids, vocab_size) if penalises(params) else None
        # Random takes a seed and its negative for the same.
        seed = None if params.seed is None else (params.seed + index) % 2**64
        self._random = Random(seed)  # noqa: S311

    def accept(self, token_id: int) -> None:
        """Note the token appended to the sequence.

        Raises:
            EngineError: The grammar cannot be followed any further.
        """
        if self.counts is not None:
            self.counts.add(token_id)
        if self.grammar is not None:
            self.grammar.accept(token_id)

    def uniform(self) -> float:
        """Return the step's number in [0, 1), by which the token is drawn."""
        return self._random.random()

    def failure(self) -> EngineError:
        """Return why `Sampler.sample` gave -1 for this sequence."""
        if self.grammar is not None and self.grammar.error is not None:
            return self.grammar.error
        return EngineError(
            "the model's logits are not finite numbers, so no token can be chosen; load it with "
            "dtype=float32, and check its files"
        )
