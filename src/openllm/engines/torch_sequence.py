"""A request in the torch engine, its sequences, and the chunks that its reader waits for."""

from __future__ import annotations

from collections.abc import Sequence as Ids

from openllm.engines.chunk_queue import ChunkQueue
from openllm.engines.hf_tokens import TokenTable
from openllm.engines.sequence_output import MadeToken, SequenceOutput, token_logprob
from openllm.engines.torch_sampling import RowLogprobs, SequenceSampling
from openllm.types import CompletionChunk, SamplingParams, TokenLogprob, Usage


class Sequence:
    """One sequence: its tokens, how the next is chosen, and what its text has come to.

    Attributes:
        tokens: What the model has read or reads next: the prompt, then each token made.
        prompt_tokens: How many of `tokens` are the prompt's.
    """

    def __init__(
        self,
        job: Job,
        index: int,
        sampling: SequenceSampling,
        table: TokenTable,
    ) -> None:
        self.job = job
        self.tokens = list(job.prompt)
        self.prompt_tokens = len(job.prompt)
        self.sampling = sampling
        self._index = index
        self._table = table
        self._read = table.reader()
        self._output: SequenceOutput | None = None
        self._finished = False

    @property
    def ended(self) -> bool:
        """Whether its last chunk was made, or its request is given up."""
        return self._finished or self.job.cancelled

    def begin(self, cached: int) -> None:
        """Note how many tokens of the prompt were reused; a second call changes nothing."""
        if self._output is None:
            job = self.job
            usage = Usage(self.prompt_tokens, 0, cached)
            self._output = SequenceOutput(job.params, self._index, job.ends, job.limit, usage)

    def push(self, token_id: int, logprobs: RowLogprobs | None) -> CompletionChunk | None:
        """Add a token; return the chunk it completes, None while its text is held."""
        if self._output is None:
            raise RuntimeError("begin() was not called before the first token")
        self.tokens.append(token_id)
        self.sampling.accept(token_id)
        made = MadeToken(token_id, 0.0)
        if logprobs is not None:
            made = MadeToken(token_id, logprobs.chosen, self._report(token_id, logprobs))
        chunk = self._output.push(made, self._read(token_id))
        self._finished = chunk is not None and chunk.finish_reason is not None
        return chunk

    def _report(self, token_id: int, logprobs: RowLogprobs) -> TokenLogprob:
        top = [
            self._logprob(other, value)
            for other, value in zip(logprobs.top_ids, logprobs.top, strict=True)
        ]
        if top and token_id not in logprobs.top_ids:
            top.append(self._logprob(token_id, logprobs.chosen))
        return self._logprob(token_id, logprobs.chosen, tuple(top))

    def _logprob(
        self, token_id: int, value: float, top: tuple[TokenLogprob, ...] = ()
    ) -> TokenLogprob:
        return token_logprob(token_id, self._table.bytes_of(token_id), value, top)


class Job:
    """One request: its sequences, and where its chunks wait for whoever reads the stream.

    Attributes:
        chunks: Made by the worker's thread, put and read on the event loop.
        ends: Token ids that end a sequence.
        limit: Most new tokens of a sequence.
        adapter: The name of its LoRA adapter.
        cancelled: Set by the reader, or when a sequence failed; the job is dropped before the
            next step.
    """

    def __init__(
        self,
        params: SamplingParams,
        prompt: Ids[int],
        ends: frozenset[int],
        limit: int,
        adapter: str = "",
    ) -> None:
        self.adapter = adapter
        self.params = params
        self.prompt = prompt
        self.ends = ends
        self.limit = limit
        self.sequences: list[Sequence] = []
        self.cancelled = False
        self.chunks = ChunkQueue()
