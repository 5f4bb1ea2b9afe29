"""An engine without weights that says what a script says: chatbots of the old school, and tests.

The model is a JSON file whose name ends in `.script.json`. Every field may be left out; an unknown
one is refused.

    {
      "context_length": 4096,          tokens of prompt and output together
      "tokens_per_second": 0,          engine steps a second, one token each in every running
                                       sequence; 0 is as fast as possible
      "prefill_tokens_per_second": 0,  prompt tokens read a second; 0 is at once
      "load_seconds": 0,               how long `start` takes
      "load_fault": {...},             a fault that `start` ends in, e.g. {"kind": "out_of_memory"}
      "unhealthy_after": 5,            seconds of a stall after which `health` says so
      "chat_template": "...",          Jinja source; ChatML when left out, "" for none
      "rules": [RULE, ...],            tried in order on the last user text
      "default": RULE                  answers what no rule matches; has no `match`
    }

A RULE gives one of three answers:

    {"match": "my name is (\\w+)", "reply": "Hello, {1}!"}
        `match` is a Python regular expression, searched for. {0} is what it found, {1} or {name} a
        group, {user} {system} {prompt} the texts of the conversation, {turns} how many texts the
        user has sent; braces are written {{ and }}. A list of replies is gone through turn by turn,
        or drawn from by the request's seed (never at temperature 0).
    {"match": "...", "tokens": ["exact", " tokens", [240, 159], [152, 128]]}
        The exact tokens, as text or as bytes, which may be broken UTF-8.
    {"match": "...", "distribution": {"a": 0.5, " b": 0.3, " c": 0.2}, "length": 20}
        Each token is sampled from these weights, with all that the request asks of a sampler.

`"repeat": 100` says a reply or tokens so many times over. `"faults"` is a list of

    {"kind": "crash", "after_tokens": 5}           the process dies by SIGKILL; "exit": it exits
                                                   with 0; "abort": it dies by SIGABRT
    {"kind": "error", "message": "..."}            the request fails; or "out_of_memory"
    {"kind": "pause", "seconds": 2}                this sequence stands still
    {"kind": "stall", "seconds": 2}                the whole engine does; without seconds, for ever

A reply ends with an end-of-text token that is neither reported nor counted; with `ignore_eos` the
reply starts over. Usage counts the tokens that are reported, so those behind a stop string are
not. `logprobs` of scripted tokens are made up, those of a distribution are its own. Penalties
count the tokens of prompt and output.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from math import inf

from openllm._version import __version__
from openllm.config.model import LoadOptions
from openllm.engines.context_option import context_asked
from openllm.engines.request_checks import check_token, input_too_long, too_long
from openllm.engines.scripted_batch import Batch, Job, Line, die, failure
from openllm.engines.scripted_rules import Fault, Playbook, Script, read_conversation, read_script
from openllm.engines.scripted_sequence import ScriptedSequence, TokenSource, check_params
from openllm.engines.scripted_tokens import PromptCache, Vocabulary, embed_text
from openllm.errors import (
    EngineStartError,
    EngineUnavailableError,
    OutOfMemoryError,
    UnsupportedError,
)
from openllm.types import (
    Capabilities,
    CompletionChunk,
    EmbeddingOutput,
    GenerateRequest,
    LocalModel,
    Prompt,
    Usage,
)

PLACES = 8


class ScriptedEngine:
    """The engine door over a script; see the module for the format."""

    def __init__(self, model: LocalModel, options: LoadOptions) -> None:
        self._model = model
        self._options = options
        self._script = Script()
        self._vocabulary = Vocabulary()
        self._playbook = Playbook(self._script, self._vocabulary)
        self._cache = PromptCache()
        self._batch: Batch | None = None
        self._context_length = self._script.context_length

    @property
    def capabilities(self) -> Capabilities:
        context = self._context_length
        return Capabilities(
            engine="scripted",
            engine_version=__version__,
            context_length=context,
            max_concurrency=self._options.max_concurrency or PLACES,
            max_embedding_tokens=context if self._options.embeddings else 0,
            chat=self._script.chat_template != "",
            longest_token=self._vocabulary.longest,
        )

    @property
    def running(self) -> int:
        """Sequences that hold a place in the batch."""
        return len(self._batch.running) if self._batch else 0

    @property
    def waiting(self) -> int:
        """Sequences that wait for a place."""
        return len(self._batch.waiting) if self._batch else 0

    async def start(self) -> None:
        """Read the script, taking as long and failing as it says.

        Raises:
            ModelFileError: The script is wrong; the message names the field.
            EngineStartError: The script's `load_fault`.
        """
        self._script = read_script(self._model.path)
        if self._script.load_seconds:
            await asyncio.sleep(self._script.load_seconds)
        if self._script.load_fault is not None:
            await fail_to_load(self._script.load_fault)
        limit = self._script.context_length
        asked = context_asked(self._model.name, self._options.context_length, limit)
        self._context_length = asked or limit
        self._vocabulary = Vocabulary()
        self._playbook = Playbook(self._script, self._vocabulary)
        self._cache = PromptCache()
        self._batch = Batch(
            self._options.max_concurrency or PLACES,
            self._script.tokens_per_second,
            self._script.unhealthy_after,
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[CompletionChunk, None]:
        """Yield the chunks of a prompt's answer; see `openllm.engines.base.Engine`."""
        batch = self._started()
        job = self._job(request)
        batch.add(job)
        try:
            while job.lines or job.chunks:
                yield await job.chunks.next()
        finally:
            batch.remove(job)

    async def embed(self, inputs: Sequence[Prompt]) -> EmbeddingOutput:
        """Embed each input as its bag of words; unit length, 64 dimensions."""
        self._started()
        if not self._options.embeddings:
            raise UnsupportedError(
                f"model {self._model.name!r} was started without embeddings", param="model"
            )
        prompts = [self._vocabulary.encode_prompt(prompt) for prompt in inputs]
        for ids in prompts:
            if len(ids) > self._context_length:
                raise input_too_long(len(ids), self._model.name, self._context_length)
        vectors = tuple(embed_text(self._vocabulary.decode(ids)) for ids in prompts)
        return EmbeddingOutput(vectors, sum(map(len, prompts)))

    async def tokenize(self, text: str, *, special: bool) -> list[int]:
        return self._vocabulary.encode(text, special=special)

    async def detokenize(self, token_ids: Sequence[int]) -> str:
        return self._vocabulary.decode(
            check_token(each, len(self._vocabulary), "token_ids") for each in token_ids
        )

    async def health(self) -> bool:
        return self._batch is not None and not self._batch.stalled()

    async def close(self) -> None:
        if self._batch is not None:
            batch, self._batch = self._batch, None
            await batch.close(EngineUnavailableError(f"model {self._model.name!r} was stopped"))

    def _started(self) -> Batch:
        if self._batch is None:
            raise EngineUnavailableError(f"model {self._model.name!r} is not loaded")
        return self._batch

    def _job(self, request: GenerateRequest) -> Job:
        """Check a request and make its sequences."""
        params = request.params
        check_params(params, self._vocabulary)
        prompt = self._vocabulary.encode_prompt(request.prompt)
        room = self._context_length - len(prompt)
        if room < 1:
            most = self._context_length
            raise too_long(len(prompt), self._model.name, most, most - 1)
        limit = min(params.max_tokens or room, room)
        usage = Usage(len(prompt), 0, self._cache.read(prompt))
        prefill = self._prefill_seconds(usage)
        conversation = read_conversation(prompt, self._vocabulary)
        job = Job()
        for index in range(params.n):
            answer = self._playbook.answer(conversation, params, index)
            source = TokenSource(answer, params, self._vocabulary, prompt, index)
            sequence = ScriptedSequence(source, params, index, limit, usage)
            job.lines.append(Line(job, sequence, answer.faults, prefill))
        return job

    def _prefill_seconds(self, usage: Usage) -> float:
        rate = self._script.prefill_tokens_per_second
        return (usage.prompt_tokens - usage.cached_tokens) / rate if rate else 0.0


async def fail_to_load(fault: Fault) -> None:
    """Do what a script's `load_fault` says: wait, raise or end the process."""
    if fault.kind in ("stall", "pause"):
        await asyncio.sleep(fault.seconds if fault.seconds is not None else inf)
        return
    if fault.kind in ("crash", "exit", "abort"):
        die(fault)
    error = failure(fault)
    raise error if isinstance(error, OutOfMemoryError) else EngineStartError(error.message)
