"""Which sequences run: admission within a budget of tokens, prompts by chunks, steps of all.

A turn reads one chunk of prompts or makes one token of every running sequence, in alternation, so a
long prompt never stops the others for longer than its chunk. When the running sequences outgrow
the budget, the one that has made the fewest tokens goes back to the queue with them.

When a pass fails, for want of memory or by a fault in the model's code, all of its sequences go
back so, and half as many run at once; one that fails alone fails. Each that ends lets one more run.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import chain

import torch

from openllm.engines.torch_batch import RunningBatch
from openllm.engines.torch_errors import as_ours
from openllm.engines.torch_lora import Lora
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
        lora: Lora,
        sampler: Sampler,
        most_rows: int,
        budget: int,
        chunk: int,
    ) -> None:
        """Begin with nothing to do.

        Args:
            model: The forward pass.
            lora: The model's adapters.
            sampler: Chooses tokens.
            most_rows: Sequences that run at once.
            budget: Tokens that fit the cache: rows times the longest row, kept prefixes too.
            chunk: Prompt tokens read in one turn.
        """
        self._model = model
        self._lora = lora
        self._sampler = sampler
        self._most_rows = self._rows = most_rows
        self._chunk = chunk
        self._reuses = isinstance(model, CausalModel)
        self._prefixes = PrefixStore(budget // 4 if self._reuses else 0)
        self._budget = budget - budget // 4 if self._reuses else budget
        self._waiting: deque[list[Sequence]] = deque()
        self._reading: list[list[Sequence]] = []
        self._prefill: Prefill | None = None
        self._batch = RunningBatch(model, most_rows, self._budget)
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
        try:
            self._drop_cancelled()
            self._pass()
        except Exception as error:  # Of any class: the code is that of PyTorch and of the model.
            self._put_back(error)
        return self._events

    def fail_all(self, error: OpenLLMError) -> list[Event]:
        """Give up everything; return an error for each request."""
        jobs = {one.job for one in chain(self._held(), *self._waiting)}
        self._waiting.clear()
        self._let_go()
        return [(job, error) for job in jobs]

    def _pass(self) -> None:
        may_read = not (self._has_read and len(self._batch))
        if may_read and self._prefill is None:
            self._admit()
        self._has_read = may_read and self._prefill is not None
        if self._has_read:
            self._read()
        elif len(self._batch):
            self._step()

    def _held(self) -> list[Sequence]:
        """Return the sequences that hold a place, those that run first."""
        return list(dict.fromkeys(chain(self._batch.sequences, *self._reading)))

    def _let_go(self) -> None:
        """Forget all that was read."""
        self._reading, self._prefill = [], None
        self._batch = RunningBatch(self._model, self._most_rows, self._budget)
        self._prefixes.clear()

    def _put_back(self, error: Exception) -> None:
        """Let what a pass failed with be read again, fewer at once; or fail, if it was alone."""
        held = [one for one in self._held() if not one.ended]
        logger.error("a pass over %d sequences failed", len(held), exc_info=error)
        self._let_go()
        if len(held) == 1:
            self._fail(held[0], as_ours(error))
        else:
            self._rows = max(1, len(held) // 2)
            self._waiting.extendleft([one] for one in reversed(held))

    def _fail(self, one: Sequence, error: OpenLLMError) -> None:
        one.job.cancelled = True
        self._events.append((one.job, error))

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
            found = self._find(group[0])
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
            self._prefill = Prefill(
                [group[0].tokens for group in self._reading],
                [group[0].prompt_tokens for group in self._reading],
                state,
            )

    def _fits(self, group: list[Sequence]) -> bool:
        held = self._held()
        rows = len(held) + len(group)
        longest = max(len(one.tokens) for one in (*held, *group)) + 1
        return not held or (rows <= self._rows and rows * longest <= self._budget)

    def _fits_chunk(self, group: list[Sequence]) -> bool:
        lengths = [len(reading[0].tokens) for reading in (*self._reading, group)]
        return max(lengths) * len(lengths) <= self._chunk

    def _read(self) -> None:
        work = self._prefill
        if work is None:
            return
        with self._lora.on([group[0].job.adapter for group in self._reading]):
            logits = self._model.prefill(work, max(1, self._chunk // len(work.tokens)))
        if logits is None:
            return
        picked = torch.tensor([at for at, group in enumerate(self._reading) for _ in group])
        sequences = [one for group in self._reading for one in group]
        self._choose(logits[picked.to(logits.device)], sequences)
        for at, one in enumerate(sequences):
            state = work.row(int(picked[at]))
            if one.ended:
                self._keep(one, state)
            else:
                self._batch.join(one, state)
        self._reading, self._prefill = [], None

    def _step(self) -> None:
        while len(self._batch) > 1 and self._over_budget():
            self._send_back()
        with self._lora.on([one.job.adapter for one in self._batch.sequences]):
            logits = self._batch.step()
        if not self._choose(logits, self._batch.sequences):
            self._batch.scrub()
        for row in reversed(range(len(self._batch))):
            if self._batch.sequences[row].ended:
                self._keep(self._batch.sequences[row], self._batch.state(row))
                self._batch.leave(row)

    def _find(self, one: Sequence) -> RowState | None:
        """Return what is kept of the beginning of a sequence."""
        return self._prefixes.find(one.tokens, one.job.adapter) if self._reuses else None

    def _keep(self, one: Sequence, state: RowState) -> None:
        """Keep what was read of a sequence that ended well."""
        if self._reuses and not one.job.cancelled:
            self._prefixes.keep(one.tokens, state, one.job.adapter)

    def _over_budget(self) -> bool:
        longest = max(len(one.tokens) for one in self._batch.sequences)
        return len(self._batch) * longest > self._budget

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

    def _choose(self, logits: torch.Tensor, sequences: list[Sequence]) -> bool:
        """Choose a token for each; return whether each could have one."""
        sampled = self._sampler.sample(logits, [one.sampling for one in sequences])
        for one, token_id, logprobs in zip(sequences, *sampled, strict=True):
            self._push(one, token_id, logprobs)
        return min(sampled.token_ids) >= 0

    def _push(self, one: Sequence, token_id: int, logprobs: RowLogprobs | None) -> None:
        try:
            if token_id < 0:
                raise one.sampling.failure()
            chunk = one.push(token_id, logprobs)
        except OpenLLMError as error:
            self._fail(one, error)
            return
        if chunk is not None:
            self._events.append((one.job, chunk))
        if one.ended:
            self._rows = min(self._most_rows, self._rows + 1)
