"""The requests of a run: prompts of about the length asked for, and when they are sent."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import accumulate, count
from pathlib import Path

import orjson
from msgspec import Struct, field

from openllm.bench.settings import BenchSettings, LengthRange
from openllm.errors import ConfigurationError

_WORDS = """
    air all and arm ask bag bed big bird blue boat book box boy bread bus cake call car cat chair
    city clock cloud coat cold cup day deep dog door dry each early east eye farm fast field fire
    fish floor food foot fresh game garden girl glass gold good grass green hall hand hat head
    hill home horse hot hour house ice island key kind lake land large leaf left letter light
    line lion long lunch map milk moon morning mountain music name near new night north nose
    ocean old open orange page paper park pen phone plan plate play quiet rain red rest rice
    right ring river road rock roof room rose round salt sand school sea seat ship shop short
    silver sister sky sleep slow small snow song south star stone story street sugar summer sun
    table tall tea ten time town train tree water week west white wind window winter wood word
    work year yellow young
""".split()  # noqa: SIM905  # A list of strings would hide the words.


class Job(Struct, frozen=True):
    """One request to send: its prompt and its `max_tokens`."""

    prompt: str
    output_tokens: int


class PromptFit(Struct):
    """How words become prompt tokens on a server: about `overhead + words * tokens_per_word`."""

    tokens_per_word: float = 1.0
    overhead: float = 0.0
    seen: list[tuple[int, int]] = field(default_factory=list)

    def words(self, tokens: int) -> int:
        """Words of a prompt of approximately `tokens` tokens, 1 at least."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))

    def learn(self, words: int, tokens: int) -> None:
        """Fit to a prompt the server counted; two lengths tell a template's own tokens apart."""
        self.seen.append((words, tokens))
        (first_words, first_tokens), (last_words, last_tokens) = self.seen[0], self.seen[-1]
        if first_words != last_words:
            slope = (last_tokens - first_tokens) / (last_words - first_words)
        else:
            slope = first_tokens / first_words
        if slope > 0:
            self.tokens_per_word = slope
            self.overhead = max(0.0, first_tokens - slope * first_words)


def jobs(settings: BenchSettings, round_number: int, fit: PromptFit) -> Iterator[Job]:
    """Yield the jobs of a round, the same ones for the same seed, round and fit.

    Round -1 is the warm-up. A change of `fit` counts from the next job.
    """
    rng = _random(settings.seed, round_number)
    limit = settings.warmup if round_number < 0 else settings.requests
    for number in range(limit):
        if settings.prompts:
            prompt = settings.prompts[(round_number * limit + number) % len(settings.prompts)]
        else:
            words = fit.words(_draw(rng, settings.prompt_tokens))
            prompt = " ".join(rng.choices(_WORDS, k=words))
        yield Job(prompt, _draw(rng, settings.output_tokens))


def arrivals(settings: BenchSettings, rate: float, round_number: int) -> Iterator[float]:
    """Yield, without end, the seconds after which each request of an open loop is due."""
    rng = _random(settings.seed, round_number + 1_000_000)
    shape = settings.burstiness
    return accumulate(rng.gammavariate(shape, 1.0 / (rate * shape)) for _ in count())


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read one prompt a line, or the `prompt` of each line's object if it is a `.jsonl` file.

    Raises:
        ConfigurationError: It cannot be read, or holds no prompt.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(f"cannot read the prompts in {path}: {exc}") from exc
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigurationError(f"{path} holds no prompt; write one a line")
    if path.suffix != ".jsonl":
        return tuple(line for _, line in numbered)
    return tuple(_prompt_field(line, path, number) for number, line in numbered)


def _prompt_field(line: str, path: Path, number: int) -> str:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise ConfigurationError(f"line {number} of {path} is not JSON: {exc}") from exc
    prompt = value.get("prompt") if isinstance(value, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise ConfigurationError(f'line {number} of {path} has no text in "prompt"')
    return prompt


def _random(seed: int, stream: int) -> random.Random:
    return random.Random(f"{seed}:{stream}")  # noqa: S311  # Repeatable is what is wanted.


def _draw(rng: random.Random, lengths: LengthRange) -> int:
    return rng.randint(lengths.low, lengths.high)
