"""Which sequences run: admission within a budget of tokens, prompts by chunks, steps of all.

A turn reads one chunk of prompts or makes one token of every running sequence, in alternation, so a
long prompt never stops the others for longer than its chunk. When the running sequences outgrow
the budget, the one that came last goes back to the queue with the tokens it has made.
"""

from __future__ import annotations

import logging
from collections import deque

import torch

from openllm.engines.torch_batch import RunningBatch
from openllm.engines.torch_model import CausalModel, Prefill, RowState
from openllm.engines.torch_prefix import PrefixStore
from openllm.engines.torch_sampling import RowLogprobs, Sampler
from openllm.engines.torch_seq2seq import Seq2SeqModel
from openllm.engines.torch_sequence import Job, Sequence
from openllm.errors import OpenLLMError
from openllm.types import CompletionChunk

logger = logging.getLogger("openllm.engines.torch")

Event = tuple[Job, CompletionChunk | OpenLLMError]


class Scheduler:
    """Sequences that wait, that are being read and that run; used by one thread only."""

    def __init__(
        self,
        model: CausalModel | Seq2SeqModel,
        sampler: Sampler,
        most_rows: int,
        budget: int,
        chunk: int,
    ) -> None:
        """Begin with nothing to do.

        Args:
            model: The forward pass.
            sampler: Chooses tokens.
            most_rows: Sequences that run at once.
            budget: Tokens that fit the cache: rows times the longest row, kept prefixes too.
            chunk: Prompt tokens read in one turn.
        """
        self._model = model
        self._sampler = sampler
        self._most_rows = most_rows
        self._chunk = chunk
        self._reuses = isinstance(model, CausalModel)
        self._prefixes = PrefixStore(budget // 4 if self._reuses else 0)
        self._budget = budget - budget // 4 if self._reuses else budget
        self._waiting: deque[list[Sequence]] = deque()
        self._reading: list[list[Sequence]] = []
        self._prefill: Prefill | None = None
        self._batch = RunningBatch(model, most_rows)
        self._has_read = False
        self._events: list[Event] = []

    @property
    def running(self) -> int:
        """Sequences that hold a place: running, or being read."""
        return len(self._batch) + sum(map(len, self._reading))

    @property
    def waiting(self) -> int:
        return sum(map(len, self._waiting))

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._reading or len(self._batch))

    def add(self, job: Job) -> None:
        """Queue a request. Its sequences share one reading of the prompt if they fit at once."""
        rows = len(job.sequences)
        together = rows <= self._most_rows and rows * (len(job.prompt) + 1) <= self._budget
        groups = [job.sequences] if together else [[one] for one in job.sequences]
        self._waiting.extend(groups)

    def turn(self) -> list[Event]:
        """Read a chunk, or make a token of each running sequence; return what to deliver."""
        self._events = []
        self._drop_cancelled()
        may_read = not (self._has_read and len(self._batch))
        if may_read and self._prefill is None:
            self._admit()
        self._has_read = may_read and self._prefill is not None
        if self._has_read:
            self._read()
        elif len(self._batch):
            self._step()
        return self._events

    def fail_all(self, error: OpenLLMError) -> list[Event]:
        """Give up everything; return an error for each request."""
        jobs = {one.job for group in (*self._waiting, *self._reading) for one in group}
        jobs |= {one.job for one in self._batch.sequences}
        self._waiting.clear()
        self._reading, self._prefill = [], None
        self._batch = RunningBatch(self._model, self._most_rows)
        self._prefixes.clear()
        return [(job, error) for job in jobs]

    def _drop_cancelled(self) -> None:
        for row in reversed(range(len(self._batch))):
            if self._batch.sequences[row].job.cancelled:
                self._batch.leave(row)
        if any(group[0].job.cancelled for group in self._waiting):
            self._waiting = deque(group for group in self._waiting if not group[0].job.cancelled)
        if self._reading and all(group[0].job.cancelled for group in self._reading):
            self._reading, self._prefill = [], None

    def _admit(self) -> None:
        """Take from the queue, in its order, what can be read in one chunk; or one long prompt."""
        state: RowState | None = None
        while self._waiting and self._fits(self._waiting[0]):
            group = self._waiting[0]
            found = self._prefixes.find(group[0].tokens) if self._reuses else None
            if self._reading and (found is not None or not self._fits_chunk(group)):
                break
            self._waiting.popleft()
            self._reading.append(group)
            for one in group:
                one.begin(found.tokens if found is not None else 0)
            if found is not None or len(group[0].tokens) > self._chunk:
                state = found
                break
        if self._reading:
            self._prefill = Prefill([group[0].tokens for group in self._reading], state)

    def _fits(self, group: list[Sequence]) -> bool:
        rows = self.running + len(group)
        if rows > self._most_rows:
            return False
        needs = [self._needs(one) for reading in (*self._reading, group) for one in reading]
        longest = max(*needs, self._batch.longest)
        return rows * longest <= self._budget or rows == len(group)

    def _needs(self, one: Sequence) -> int:
        """Return the tokens a sequence needs room for when it is admitted.

        A decoder-only model's grow later, up to the budget. An encoder-decoder's cannot be read
        again with their output, so they get room for all of it.
        """
        return len(one.tokens) + (1 if self._reuses else one.job.limit)

    def _fits_chunk(self, group: list[Sequence]) -> bool:
        lengths = [len(reading[0].tokens) for reading in (*self._reading, group)]
        return max(lengths) * len(lengths) <= self._chunk

    def _read(self) -> None:
        work = self._prefill
        if work is None:
            return
        logits = self._model.prefill(work, max(1, self._chunk // len(work.prompts)))
        if logits is None:
            return
        groups, self._reading, self._prefill = self._reading, [], None
        picked = torch.tensor([at for at, group in enumerate(groups) for _ in group])
        sequences = [one for group in groups for one in group]
        finished = self._choose(logits[picked.to(logits.device)], sequences)
        for at, one in enumerate(sequences):
            if at not in finished and not one.job.cancelled:
                self._batch.join(one, work.row(int(picked[at])))
            elif self._reuses:
                self._prefixes.keep(one.tokens, work.row(int(picked[at])))

    def _step(self) -> None:
        while len(self._batch) > 1 and self._over_budget():
            self._send_back()
        logits = self._batch.step()
        finished = self._choose(logits, list(self._batch.sequences))
        for row in sorted(finished, reverse=True):
            if self._reuses:
                self._prefixes.keep(self._batch.sequences[row].tokens, self._batch.state(row))
            self._batch.leave(row)

    def _over_budget(self) -> bool:
        return len(self._batch) * (self._batch.longest + 1) > self._budget and self._reuses

    def _send_back(self) -> None:
        """Put the sequence that has made the fewest tokens before all that wait."""
        sequences = self._batch.sequences
        made = [len(one.tokens) - one.prompt_tokens for one in sequences]
        row = made.index(min(made))
        logger.debug(
            "the KV cache is full: a sequence of %d tokens waits", len(sequences[row].tokens)
        )
        self._waiting.appendleft([sequences[row]])
        self._batch.leave(row)

    def _choose(self, logits: torch.Tensor, sequences: list[Sequence]) -> set[int]:
        """Choose a token for each; return which of the sequences have ended."""
        sampled = self._sampler.sample(logits, [one.sampling for one in sequences])
        ended = set()
        for at, one in enumerate(sequences):
            if self._push(one, sampled.token_ids[at], sampled.logprobs[at]):
                ended.add(at)
        return ended

    def _push(self, one: Sequence, token_id: int, logprobs: RowLogprobs | None) -> bool:
        try:
            if token_id < 0:
                raise one.sampling.failure()
            chunk = one.push(token_id, logprobs)
        except OpenLLMError as error:
            one.job.cancelled = True
            self._events.append((one.job, error))
            return True
        if chunk is not None:
            self._events.append((one.job, chunk))
        return chunk is not None and chunk.finish_reason is not None
