"""What `openllm.LLM` returns: the text so far, where the engine door speaks of what is new."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import msgspec
from msgspec import Struct, field

from openllm import types
from openllm.errors import EngineError
from openllm.types import FinishReason


def new_request_id() -> str:
    return uuid4().hex


class CompletionChunk(Struct):
    """One sequence so far.

    Attributes:
        index: Which of the `n` sequences.
        text: All of its text; special tokens are left out.
        token_ids: All of its tokens, none of the prompt's.
        cumulative_logprob: Sum of the tokens' log-probabilities; llama.cpp computes it only for
            requests with `logprobs`, and it is 0.0 without.
        logprobs: Log-probabilities by token id, a dictionary for each token: the token's own and
            those of the alternatives asked for. None where the request asked for none.
        finish_reason: "stop" or "length", in the last output only.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float
    logprobs: list[dict[int, float]] | None = None
    finish_reason: FinishReason | None = None


class GenerationOutput(Struct):
    """All sequences of a request so far; equal to the answer once `finished`.

    Attributes:
        prompt: The prompt as the model reads it: for messages, what the chat template made.
        finished: Whether this is the last output; only that one has finish reasons.
        outputs: The `n` sequences in order.
        prompt_token_ids: The tokens that the model reads.
        request_id: The caller's, or a random one; the same in all outputs of a request.
    """

    prompt: str
    finished: bool
    outputs: list[CompletionChunk]
    prompt_token_ids: list[int] | None = None
    request_id: str = field(default_factory=new_request_id)

    def model_dump(self) -> dict[str, Any]:
        """Return plain dictionaries and lists."""
        dumped: dict[str, Any] = msgspec.to_builtins(self)
        return dumped

    def model_dump_json(self) -> str:
        """Return JSON, in which the token ids that are keys of `logprobs` are strings."""
        return msgspec.json.encode(self).decode()


class _Sequence:
    """One sequence being collected; `due` is the count of tokens its next output waits for."""

    __slots__ = ("cumulative", "due", "finish_reason", "index", "logprobs", "texts", "token_ids")

    def __init__(self, index: int, *, logprobs: bool) -> None:
        self.index = index
        self.texts: list[str] = []
        self.token_ids: list[int] = []
        self.cumulative = 0.0
        self.logprobs: list[dict[int, float]] | None = [] if logprobs else None
        self.finish_reason: FinishReason | None = None
        self.due = 1

    def add(self, delta: types.CompletionChunk) -> None:
        self.texts.append(delta.text)
        self.token_ids += delta.token_ids
        self.cumulative = delta.cumulative_logprob
        self.finish_reason = delta.finish_reason
        if self.logprobs is not None and delta.logprobs:
            self.logprobs += map(_by_token_id, delta.logprobs)

    def so_far(self, *, finished: bool) -> CompletionChunk:
        text = "".join(self.texts)
        self.texts = [text]
        return CompletionChunk(
            self.index,
            text,
            self.token_ids.copy(),
            self.cumulative,
            None if self.logprobs is None else self.logprobs.copy(),
            self.finish_reason if finished else None,
        )


def _by_token_id(token: types.TokenLogprob) -> dict[int, float]:
    return {token.token_id: token.logprob} | {each.token_id: each.logprob for each in token.top}


class Collector:
    """Deltas of the engine door in, cumulative outputs out.

    Attributes:
        finished: Every sequence has ended.
    """

    def __init__(
        self,
        prompt: str,
        prompt_token_ids: list[int],
        request: types.GenerateRequest,
        stream_interval: int = 1,
    ) -> None:
        logprobs = request.params.logprobs is not None
        self._prompt = prompt
        self._prompt_token_ids = prompt_token_ids
        self._request_id = request.request_id
        self._interval = stream_interval
        self._sequences = [_Sequence(at, logprobs=logprobs) for at in range(request.params.n)]
        self._open = request.params.n
        self._begun = False

    @property
    def finished(self) -> bool:
        return self._open == 0

    def add(self, delta: types.CompletionChunk) -> bool:
        """Add a delta; return whether an output is due: every `stream_interval` tokens of a
        sequence from its first one on, and at its end."""
        self._begun = True
        sequence = self._sequences[delta.index]
        sequence.add(delta)
        if delta.finish_reason is not None:
            self._open -= 1
            return True
        made = len(sequence.token_ids)
        if made < sequence.due:
            return False
        sequence.due = made + self._interval - (made - 1) % self._interval
        return True

    def output(self) -> GenerationOutput:
        """Return all that was added so far."""
        finished = self.finished
        return GenerationOutput(
            self._prompt,
            finished,
            [sequence.so_far(finished=finished) for sequence in self._sequences],
            self._prompt_token_ids.copy(),
            self._request_id,
        )

    def check_finished(self) -> None:
        """Check, at the end of the engine's stream, that it was the end of the answer.

        Raises:
            RuntimeError: Nothing was produced.
            EngineError: A sequence has no finish reason.
        """
        if not self._begun:
            raise RuntimeError(f"the engine produced nothing for request {self._request_id}")
        if not self.finished:
            raise EngineError(f"request {self._request_id} ended without a finish reason")
