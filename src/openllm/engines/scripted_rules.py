"""What a `*.script.json` file may say, and which of its rules answers a prompt.

The format is described in `openllm.engines.scripted_engine`; the structs below are its schema.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from string import Formatter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct, field

from openllm.engines.scripted_tokens import (
    IM_END_ID,
    IM_START_ID,
    Vocabulary,
    split_words,
)
from openllm.errors import ModelFileError
from openllm.types import SamplingParams

FaultKind = Literal["crash", "exit", "abort", "stall", "pause", "out_of_memory", "error"]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Amount = Annotated[float, Meta(ge=0)]

CHATML_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Fields of a reply beside the groups of the rule's own regular expression.
CONVERSATION_FIELDS = ("prompt", "system", "turns", "user")


class Fault(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong once a sequence has made `after_tokens` tokens."""

    kind: FaultKind
    after_tokens: Count = 0
    seconds: Amount | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if self.seconds is not None and self.kind not in ("stall", "pause"):
            raise ValueError("`seconds` goes with the kinds `stall` and `pause` only")
        if self.message and self.kind not in ("error", "out_of_memory"):
            raise ValueError("`message` goes with the kinds `error` and `out_of_memory` only")


class Rule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer, and the last user texts that it answers."""

    match: str = ""
    reply: str | tuple[str, ...] | None = None
    tokens: tuple[str | tuple[Annotated[int, Meta(ge=0, le=255)], ...], ...] | None = None
    distribution: dict[str, Amount] | None = None
    length: Positive | None = None
    repeat: Positive = 1
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        answers = (self.reply, self.tokens, self.distribution)
        if sum(answer is not None for answer in answers) != 1:
            raise ValueError("give one of `reply`, `tokens` and `distribution`")
        if self.length is not None and self.distribution is None:
            raise ValueError("`length` goes with `distribution` only")
        if self.repeat != 1 and self.distribution is not None:
            raise ValueError("`repeat` goes with `reply` and `tokens` only")
        self._check_reply()
        if self.tokens is not None and not all(self.tokens):
            raise ValueError("`tokens` holds an empty token; leave it out")
        if self.distribution is not None:
            self._check_distribution(self.distribution)

    def _check_reply(self) -> None:
        if self.reply == ():
            raise ValueError("`reply` is an empty list; give at least one text")
        try:
            pattern = re.compile(self.match)
        except re.error as error:
            raise ValueError(f"`match` is no regular expression: {error}") from None
        known = {*map(str, range(pattern.groups + 1)), *pattern.groupindex, *CONVERSATION_FIELDS}
        for text in self.replies():
            for name in _field_names(text):
                if name not in known:
                    raise ValueError(
                        f"`reply` has an unknown field {{{name}}}; known are "
                        f"{', '.join(sorted(known))}; write braces as {{{{ and }}}}"
                    )

    def _check_distribution(self, distribution: dict[str, float]) -> None:
        if not sum(distribution.values()) > 0 or "" in distribution:
            raise ValueError("`distribution` needs non-empty tokens and a positive sum")

    def replies(self) -> tuple[str, ...]:
        return (self.reply,) if isinstance(self.reply, str) else self.reply or ()


class Script(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole script file; every field may be left out."""

    context_length: Positive = 4096
    tokens_per_second: Amount = 0.0
    prefill_tokens_per_second: Amount = 0.0
    load_seconds: Amount = 0.0
    load_fault: Fault | None = None
    unhealthy_after: Amount = 5.0
    chat_template: str = CHATML_TEMPLATE
    rules: tuple[Rule, ...] = ()
    default: Rule = field(default_factory=lambda: Rule(reply="I have no answer to that."))

    def __post_init__(self) -> None:
        if self.default.match:
            raise ValueError("`default` answers every text; take `match` out of it")


def read_script(path: str | Path) -> Script:
    """Read and check a script file.

    Raises:
        ModelFileError: It cannot be read, or something in it is wrong; the message says where.
    """
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Script)
    except OSError as error:
        raise ModelFileError(f"cannot read the script {str(path)!r}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelFileError(f"the script {str(path)!r} is wrong: {error}") from None


class Conversation(Struct, frozen=True):
    """What rules see of a prompt: its last user text, its system text, its user turns."""

    user: str
    system: str
    turns: int
    prompt: str


def read_conversation(ids: Sequence[int], vocabulary: Vocabulary) -> Conversation:
    """Take a ChatML prompt apart; a prompt without turns is itself the user text.

    Turns are found by control ids, so text that looks like a control token changes nothing.
    """
    prompt = vocabulary.decode(ids)
    turns = [vocabulary.decode(turn).partition("\n") for turn in _turns(ids)]
    users = [text for role, _, text in turns if role == "user"]
    system = next((text for role, _, text in turns if role == "system"), "")
    if not users:
        return Conversation(prompt, system, 1, prompt)
    return Conversation(users[-1], system, len(users), prompt)


def _turns(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield what stands between each start of a turn and its end."""
    start: int | None = None
    for at, token_id in enumerate(ids):
        if token_id == IM_START_ID:
            start = at + 1
        elif token_id == IM_END_ID and start is not None:
            yield ids[start:at]
            start = None


class Answer(Struct, frozen=True):
    """What a rule makes one sequence say.

    Either `ids`, in order, or `length` tokens (None: no end) drawn from `logprobs`.
    """

    ids: tuple[int, ...] = ()
    logprobs: dict[int, float] | None = None
    length: int | None = None
    faults: tuple[Fault, ...] = ()


class Playbook:
    """A script's rules, made ready: regular expressions compiled, constant replies encoded."""

    def __init__(self, script: Script, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        for rule in (*script.rules, script.default):
            _learn(rule, vocabulary)
        self._rules = [(re.compile(rule.match), self._lines(rule), rule) for rule in script.rules]
        self._rules.append((re.compile(""), self._lines(script.default), script.default))

    def answer(self, conversation: Conversation, params: SamplingParams, index: int) -> Answer:
        """Return what sequence `index` says: the first rule whose expression is found decides."""
        found, lines, rule = next(
            (found, lines, rule)
            for pattern, lines, rule in self._rules
            if (found := pattern.search(conversation.user))
        )
        if not lines:
            return Answer((), _logprobs(rule, self._vocabulary), rule.length, rule.faults)
        line = lines[_alternative(len(lines), conversation, params, index)]
        if isinstance(line, str):
            text = _fill(line, found, conversation)
            line = tuple(self._vocabulary.encode(text, special=False)) * rule.repeat
        return Answer(line, faults=rule.faults)

    def _lines(self, rule: Rule) -> list[str | tuple[int, ...]]:
        """Return a rule's alternatives: ids where they are constant, else text with fields."""
        if rule.tokens is not None:
            ids = tuple(self._vocabulary.add(_token_bytes(token)) for token in rule.tokens)
            return [ids * rule.repeat]
        lines: list[str | tuple[int, ...]] = []
        for text in rule.replies():
            if any(_field_names(text)):
                lines.append(text)
            else:
                ids = tuple(self._vocabulary.encode(text.format(), special=False))
                lines.append(ids * rule.repeat)
        return lines


def _alternative(count: int, conversation: Conversation, params: SamplingParams, index: int) -> int:
    """Pick a reply: by the seed if one counts, else by turns; greedy is the same every time."""
    if params.temperature == 0:
        return (conversation.turns - 1) % count
    if params.seed is None:
        return (conversation.turns - 1 + index) % count
    return Random(params.seed + index).randrange(count)  # noqa: S311


def _fill(text: str, found: re.Match[str], conversation: Conversation) -> str:
    """Put the groups and the conversation's fields into a reply; never looks into the values."""
    values = {name: str(getattr(conversation, name)) for name in CONVERSATION_FIELDS}
    values |= {name: value or "" for name, value in found.groupdict().items()}
    values |= {str(at): found.group(at) or "" for at in range(found.re.groups + 1)}
    parts = Formatter().parse(text)
    return "".join(literal + (values[name] if name else "") for literal, name, _, _ in parts)


def _field_names(text: str) -> Iterator[str]:
    for _, name, spec, conversion in Formatter().parse(text):
        if spec or conversion or name == "":
            raise ValueError("`reply`: a field is {0} or {name}, with nothing else in the braces")
        if name is not None:
            yield name


def _token_bytes(token: str | Iterable[int]) -> bytes:
    return token.encode() if isinstance(token, str) else bytes(token)


def _learn(rule: Rule, vocabulary: Vocabulary) -> None:
    """Give the words and tokens of a rule ids of their own."""
    for text in rule.replies():
        for literal, *_ in Formatter().parse(text):
            for word in split_words(literal):
                vocabulary.add(word.encode())
    for token in (*(rule.tokens or ()), *(rule.distribution or ())):
        vocabulary.add(_token_bytes(token))


def _logprobs(rule: Rule, vocabulary: Vocabulary) -> dict[int, float]:
    weights = rule.distribution or {}
    total = sum(weights.values())
    return {
        vocabulary.add(token.encode()): math.log(weight / total)
        for token, weight in weights.items()
        if weight > 0
    }
