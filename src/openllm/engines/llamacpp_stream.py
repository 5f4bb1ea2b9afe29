"""llama.cpp's events as our chunks.

llama.cpp sends one JSON object per token and sequence. Its own stop strings are not used: it loses
the text that it holds back when the token limit ends a sequence, and holds back more than a stop
string needs. Text is cut here instead, by `openllm.engines.textstream`.

Known gap: llama.cpp sends no event for a token that ends inside a character. Its bytes come with
the token that completes the character, in `logprobs` too, and usage counts it, but its id and
logprob are not known. A text that ends inside a character loses that beginning.

Token ids come only beside probabilities. A request that asks for no logprobs gets the cheapest kind
(see `llamacpp_request`), which is not the model's own: its `cumulative_logprob` stays 0.
"""

from __future__ import annotations

from msgspec import Struct, json

from openllm.engines.textstream import TextStream
from openllm.types import CompletionChunk, FinishReason, SamplingParams, TokenLogprob, Usage


class NativeToken(Struct, frozen=True, gc=False):
    id: int


class NativeTokenDetail(Struct, frozen=True):
    id: int
    token: str
    bytes: tuple[int, ...]
    logprob: float
    top_logprobs: tuple[NativeTokenDetail, ...] = ()


class Logprobs(Struct, frozen=True):
    content: tuple[NativeToken, ...]


class DetailedLogprobs(Struct, frozen=True):
    content: tuple[NativeTokenDetail, ...]


class Choice(Struct, frozen=True):
    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | None = None


class DetailedChoice(Struct, frozen=True):
    text: str
    index: int
    logprobs: DetailedLogprobs | None = None
    finish_reason: FinishReason | None = None


class PromptProgress(Struct, frozen=True):
    total: int
    cache: int


class NativeUsage(Struct, frozen=True):
    prompt_tokens: int
    completion_tokens: int


class NativeError(Struct, frozen=True):
    message: str
    type: str = ""
    n_prompt_tokens: int = 0
    n_ctx: int = 0


class Event(Struct, frozen=True):
    """What all events share: whichever fields are set say what it is."""

    choices: tuple[Choice, ...] = ()
    prompt_progress: PromptProgress | None = None
    usage: NativeUsage | None = None
    error: NativeError | None = None


class DetailedEvent(Struct, frozen=True):
    """As `Event`, with each token's bytes and alternatives."""

    choices: tuple[DetailedChoice, ...] = ()
    prompt_progress: PromptProgress | None = None
    usage: NativeUsage | None = None
    error: NativeError | None = None


SCHEMA_DROPPED = NativeError("a token came that no text held to the JSON schema contains")

decode_event = json.Decoder(Event).decode
decode_detailed_event = json.Decoder(DetailedEvent).decode

Made = tuple[int, float, TokenLogprob | None]


def detail(token: NativeTokenDetail, count: int) -> TokenLogprob:
    """Return a token's report with `count` alternatives, itself added if it is not among them."""
    top = [_logprob(each) for each in token.top_logprobs[:count]]
    if count and all(each.token_id != token.id for each in top):
        top.append(_logprob(token))
    return TokenLogprob(token.id, token.token, token.bytes, token.logprob, tuple(top))


def _logprob(token: NativeTokenDetail) -> TokenLogprob:
    return TokenLogprob(token.id, token.token, token.bytes, token.logprob)


class Sequence:
    """One of a request's sequences: native tokens in, chunks out.

    Attributes:
        ended: Its last chunk has been made.
    """

    __slots__ = (
        "_cumulative",
        "_index",
        "_plain",
        "_reports",
        "_sent",
        "_silent",
        "_stop_ids",
        "_stream",
        "ended",
    )

    def __init__(self, index: int, params: SamplingParams) -> None:
        self._index = index
        self._reports = params.logprobs is not None
        self._stop_ids = frozenset(params.stop_token_ids)
        self._plain = not (self._reports or self._stop_ids or params.stop)
        self._stream: TextStream[Made] = TextStream(params.stop)
        self._silent: list[Made] = []  # Tokens without text: one may turn out to be the end.
        self._cumulative = 0.0
        self._sent = 0
        self.ended = False

    def plain(self, text: str, token: NativeToken) -> CompletionChunk | None:
        """Add a token of a request without stops and reports: the short way of `add`."""
        if not self._plain or not text or self._silent:
            return None
        self._sent += 1
        return CompletionChunk(self._index, text, (token.id,))

    def add(self, text: str, made: Made, prompt: Usage) -> CompletionChunk | None:
        """Add a token; return the chunk it completes, or None while its text is held."""
        if made[0] in self._stop_ids:
            return self._finish("stop", prompt)
        if not text:
            self._silent.append(made)
            return None
        self._flush_silent()
        safe, tokens = self._stream.push(made, text.encode())
        if self._stream.matched is not None:
            return self._chunk(safe, tokens, "stop", prompt)
        return self._chunk(safe, tokens) if safe else None

    def end(self, reason: FinishReason, usage: Usage) -> CompletionChunk:
        """End as llama.cpp says: `stop` is its end-of-text token, which is not reported."""
        if reason == "stop" and self._silent:
            self._silent.pop()
        return self._finish(reason, usage, usage.completion_tokens - (reason == "stop"))

    def _flush_silent(self) -> None:
        for made in self._silent:
            self._stream.push(made, b"")
        self._silent.clear()

    def _finish(
        self, reason: FinishReason, usage: Usage, completion_tokens: int | None = None
    ) -> CompletionChunk:
        self._flush_silent()
        tail, tokens = self._stream.finish()
        return self._chunk(tail, tokens, reason, usage, completion_tokens)

    def _chunk(
        self,
        text: str,
        tokens: tuple[Made, ...],
        reason: FinishReason | None = None,
        prompt: Usage | None = None,
        completion_tokens: int | None = None,
    ) -> CompletionChunk:
        self._sent += len(tokens)
        self._cumulative += sum(logprob for _, logprob, _ in tokens)
        self.ended = reason is not None
        usage = None
        if prompt is not None:
            count = self._sent if completion_tokens is None else completion_tokens
            usage = Usage(prompt.prompt_tokens, count, prompt.cached_tokens)
        return CompletionChunk(
            self._index,
            text,
            tuple(token_id for token_id, _, _ in tokens),
            self._cumulative,
            tuple(d for _, _, d in tokens if d is not None) if self._reports else None,
            reason,
            usage,
        )


class Answer:
    """All sequences of one request; a token `never` among theirs is an error.

    Attributes:
        error: What llama.cpp said against the request, if it did, or `SCHEMA_DROPPED`.
        empty: llama.cpp found no token in the prompt.
    """

    __slots__ = ("_never", "_open", "_prompt", "_sequences", "_top", "empty", "error")

    def __init__(self, params: SamplingParams, never: int | None = None) -> None:
        self._sequences = [Sequence(index, params) for index in range(params.n)]
        self._open = params.n
        self._top = params.logprobs
        self._never = never
        self._prompt = Usage(0, 0)
        self.error: NativeError | None = None
        self.empty = False

    @property
    def ended(self) -> bool:
        """Every sequence has had its last chunk."""
        return self._open == 0

    def take(self, data: bytes) -> CompletionChunk | None:
        """Take in one event; return the chunk it makes, if any."""
        event = decode_event(data) if self._top is None else decode_detailed_event(data)
        if event.prompt_progress is not None:
            progress = event.prompt_progress
            self._prompt = Usage(progress.total, 0, progress.cache)
        elif event.error is not None:
            self.error = event.error
        elif event.choices:
            return self._step(event.choices[0], event.usage)
        return None

    def _step(
        self, choice: Choice | DetailedChoice, usage: NativeUsage | None
    ) -> CompletionChunk | None:
        sequence = self._sequences[choice.index]
        if sequence.ended:  # llama.cpp goes on for a token or two after our own stop.
            return None
        chunk = None
        if choice.logprobs is not None:
            token = choice.logprobs.content[0]
            if token.id == self._never:
                self.error = SCHEMA_DROPPED
                return None
            if isinstance(token, NativeToken):
                chunk = sequence.plain(choice.text, token)
                if chunk is not None:
                    return chunk
                made: Made = (token.id, 0.0, None)
            else:
                made = (token.id, token.logprob, detail(token, self._top or 0))
            chunk = sequence.add(choice.text, made, self._prompt)
        elif choice.finish_reason is not None and usage is not None:
            self.empty = usage.prompt_tokens == 0
            whole = Usage(usage.prompt_tokens, usage.completion_tokens, self._prompt.cached_tokens)
            chunk = sequence.end(choice.finish_reason, whole)
        self._open -= sequence.ended
        return chunk
