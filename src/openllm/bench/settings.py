"""What a benchmark run is asked to do, and what it records of one request."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

Endpoint = Literal["chat", "completions"]

MAX_REQUESTS = 100_000
"""Most requests of one round, also when only a duration is given."""

MAX_LENGTH = 10_000_000
MAX_CONCURRENCY = 10_000
MAX_DURATION = 86_400.0
GOODPUT_METRICS = ("ttft", "tpot", "e2el")


class LengthRange(Struct, frozen=True, array_like=True):
    """Tokens, drawn evenly from low to high, both included."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}:{self.high}"

    @classmethod
    def of(cls, text: str) -> LengthRange:
        """Read a number of tokens, or LOW:HIGH; raises `ValueError` if it is neither."""
        low, colon, high = text.partition(":")
        try:
            lengths = cls(int(low), int(high) if colon else int(low))
        except ValueError:
            raise ValueError(f"{text!r} is not a number of tokens nor LOW:HIGH") from None
        if not 1 <= lengths.low <= lengths.high <= MAX_LENGTH:
            raise ValueError(f"{text!r} must be 1 or more, and LOW no more than HIGH")
        return lengths


class BenchSettings(Struct, frozen=True, kw_only=True):
    """One run; exactly one of `concurrency` (closed loop) and `rate` (open loop) is set.

    Attributes:
        endpoint: Which route is driven; both are streamed.
        concurrency: Requests in flight at any time.
        rate: Requests per second, sent whether or not earlier ones are answered.
        burstiness: Shape of the gamma distribution of the pauses; 1 is Poisson, less is burstier.
        requests: Most requests of one round.
        duration: Seconds after which a round sends no new request.
        prompt_tokens: Approximate length of generated prompts.
        output_tokens: Sent as `max_tokens`.
        prompts: Used in turn in place of generated prompts.
        warmup: Requests sent before measuring.
        rounds: Times the load is repeated, in alternation when two servers are compared.
        ignore_eos: Sent only if true: servers other than vLLM-like ones may refuse the field.
        temperature: Sent unless None.
        goodput: Upper limits in milliseconds by metric (`GOODPUT_METRICS`).
        keep_alive: Use a connection again when the server allows it; else one per request.
        timeout: Seconds after which one request counts as failed.
    """

    endpoint: Endpoint = "chat"
    concurrency: int | None = 8
    rate: float | None = None
    burstiness: float = 1.0
    requests: int = 64
    duration: float | None = None
    prompt_tokens: LengthRange = LengthRange(32, 32)
    output_tokens: LengthRange = LengthRange(64, 64)
    prompts: tuple[str, ...] = ()
    warmup: int = 2
    rounds: int = 1
    seed: int = 0
    ignore_eos: bool = False
    temperature: float | None = 0.0
    goodput: dict[str, float] = field(default_factory=dict)
    keep_alive: bool = False
    timeout: float = 600.0


class RequestRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One request as the load generator saw it; all times in seconds.

    Attributes:
        start: When it was sent, since the run began.
        lag: How much later than planned it was sent; 0 in a closed loop.
        ttft: To the first chunk with text; None if there was none.
        latency: To the last chunk of the reply.
        gaps: Between chunks with text, one fewer than the chunks.
        prompt_tokens: As the server counted them, None if it did not say.
        output_tokens: As the server counted them, else the chunks with text.
        counted: `output_tokens` is a count of chunks.
        error: Kind of the failure; None for a complete reply.
        detail: What the server or the network said about the failure.
    """

    start: float
    latency: float
    lag: float = 0.0
    ttft: float | None = None
    gaps: tuple[float, ...] = ()
    prompt_tokens: int | None = None
    output_tokens: int = 0
    counted: bool = False
    error: str | None = None
    detail: str = ""
