"""A model's chat template: what it takes, found out once, and prompts rendered by it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2.exceptions import SecurityError, TemplateError

from openllm.errors import InvalidRequestError, ModelFileError
from openllm.prompts.budget import LimitError
from openllm.prompts.literals import ControlTokens, Segment, Sentinels
from openllm.prompts.sandbox import (
    RefusalError,
    compile_template,
    render_template,
    sought_texts,
)
from openllm.types import Message

_LOG = logging.getLogger("openllm.prompts")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_SYSTEM_ROLES = ("system", "developer")
_PROBE = "openllm-probe"
_MAX_REASON = 500
_HOSTILE = (LimitError, SecurityError, OverflowError, RecursionError, MemoryError)

_Turn = dict[str, str]


class ChatTemplate:
    """The chat template of one model; safe to use from several threads.

    Some templates raise when given a system message or leave it out: for those it is put before
    the first user message. Some show a message only if its content is a list of parts: those get
    one. Both are found out when the template is made, by rendering a probe.
    """

    def __init__(
        self,
        source: str,
        *,
        control_tokens: Iterable[str] = (),
        bos_token: str = "",
        eos_token: str = "",
    ) -> None:
        """Compile the Jinja `source` and try it.

        Args:
            source: The template as the model's file holds it.
            control_tokens: Texts of tokens that a user must not be able to write.
            bos_token: Text of the begin-of-text token, "" if there is none.
            eos_token: Text of the end-of-text token, "" if there is none.

        Raises:
            ModelFileError: It does not compile, or a probe goes beyond a limit of the sandbox.
        """
        self._template = compile_template(source)
        self._variables = {"bos_token": bos_token, "eos_token": eos_token}
        self._tokens = ControlTokens((*control_tokens, bos_token, eos_token))
        # A template may cut an assistant's text at a token, e.g. at "</think>": it must see it.
        self._assistant_tokens = self._tokens.without(sought_texts(source))
        user, system = {"role": "user", "content": _PROBE}, {"role": "system", "content": _PROBE}
        self._wants_parts = not self._shows([user]) and self._shows([user], parts=True)
        greeting = {"role": "user", "content": "Hello"}
        self._takes_system = self._shows([system, greeting], parts=self._wants_parts)
        if not self._takes_system:
            _LOG.debug("The chat template takes no system message; it joins the first user's.")

    def render(
        self, messages: Sequence[Message], *, add_generation_prompt: bool = True
    ) -> tuple[Segment, ...]:
        """Return the prompt: one text, or pieces where a message holds text of control tokens.

        No piece is empty. BOS is in it where the template writes it, and nowhere else. Only the
        first message may be of the role system (or developer); later ones are left out with a
        logged notice. The call takes microseconds for usual conversations, at most about a second
        and two for each million characters: run it in a thread.

        Raises:
            InvalidRequestError: The template refuses the messages or goes beyond a limit, or a
                role is no word.
        """
        turns = self._turns(messages)
        texts = [text for turn in turns for text in turn.values()]
        sentinels: Sentinels | None = None
        if any(map(self._tokens.may_be_in, texts)):
            sentinels = Sentinels(texts)
            turns = [self._hidden(turn, sentinels) for turn in turns]
        try:
            rendered = self._render(
                turns, parts=self._wants_parts, add_generation_prompt=add_generation_prompt
            )
        except Exception as error:
            reason = str(error) if sentinels is None else sentinels.restore(str(error))
            raise _not_renderable(error, reason) from error
        if sentinels is None:
            return (rendered,) if rendered else ()
        return sentinels.split(rendered)

    def _turns(self, messages: Sequence[Message]) -> list[_Turn]:
        if not messages:
            raise InvalidRequestError("messages is empty; send at least one.", param="messages")
        turns: list[_Turn] = []
        for message in messages:
            if not _ROLE.fullmatch(message.role):
                raise InvalidRequestError(
                    f"{message.role[:80]!r} is not a role; use system, user or assistant.",
                    param="messages",
                )
            turn = {"role": message.role, "content": message.content or ""}
            if message.name:
                turn["name"] = message.name
            if message.role not in _SYSTEM_ROLES:
                turns.append(turn)
            elif not turns:
                turns.append({**turn, "role": "system"})
            else:
                _LOG.warning("A system message that is not the first message is ignored.")
        if turns[0]["role"] == "system" and not self._takes_system:
            return _folded(turns)
        return turns

    def _hidden(self, turn: _Turn, sentinels: Sentinels) -> _Turn:
        tokens = self._assistant_tokens if turn["role"] == "assistant" else self._tokens
        return {
            key: text if key == "role" else sentinels.hide(text, tokens)
            for key, text in turn.items()
        }

    def _render(self, turns: Sequence[_Turn], *, parts: bool, add_generation_prompt: bool) -> str:
        messages: Sequence[Mapping[str, Any]] = turns
        if parts:
            messages = [
                {**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in turns
            ]
        return render_template(
            self._template,
            {
                "messages": messages,
                "add_generation_prompt": add_generation_prompt,
                "tools": None,
                "documents": None,
                **self._variables,
            },
            characters=sum(len(turn["content"]) for turn in turns),
        )

    def _shows(self, turns: Sequence[_Turn], *, parts: bool = False) -> bool:
        """Whether the probe in `turns` is in the prompt; False too when the template refuses."""
        try:
            return _PROBE in self._render(turns, parts=parts, add_generation_prompt=True)
        except _HOSTILE as error:
            raise ModelFileError(
                f"The chat template cannot be used: {str(error).rstrip('.')}."
            ) from error
        except Exception as error:
            _LOG.debug("The chat template refuses a probe: %r.", error)
            return False


def _folded(turns: list[_Turn]) -> list[_Turn]:
    """Put the system text, which comes first, before the text of the user who speaks next."""
    system, *rest = turns
    if not rest or rest[0]["role"] != "user":
        return [{**system, "role": "user"}, *rest]
    content = "\n\n".join(filter(None, (system["content"], rest[0]["content"])))
    return [{**rest[0], "content": content}, *rest[1:]]


def _not_renderable(error: Exception, reason: str) -> InvalidRequestError:
    reason = reason[:_MAX_REASON]
    if isinstance(error, RefusalError):
        return InvalidRequestError(
            f"The model's chat template refuses these messages: {reason}", param="messages"
        )
    if not isinstance(error, (LimitError, TemplateError)):
        reason = f"it fails with {type(error).__name__}"
    return InvalidRequestError(
        f"The model's chat template cannot render these messages: {reason.rstrip('.')}.",
        param="messages",
    )
