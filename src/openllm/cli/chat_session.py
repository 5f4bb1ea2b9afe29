"""A conversation with a running server: what has been said, and the commands that change it.

Knows nothing of how lines are read.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openllm.cli.remote import write_reply
from openllm.cli.streams import harmless
from openllm.errors import InvalidRequestError, OpenLLMError

if TYPE_CHECKING:
    from open_llm_client import Client
    from open_llm_client.protocol import Message, SamplingOptions

HELP = """\
  /help                   this text
  /model [NAME]           talk to another served model; without NAME, list them
  /system [TEXT]          instruct the model; without TEXT, take the instruction back
  /reset                  forget the conversation
  /save [--force] [FILE]  write it to FILE.json or FILE.md; --force replaces a file
  /exit                   leave, as Ctrl-D does
A line that ends in \\ goes on in the next; so do lines between \"\"\" and \"\"\".
Ctrl-C stops a reply. Put a blank before a message that begins with /."""


class CommandError(InvalidRequestError):
    """A command is wrong as written; the message says why."""


class ChatSession:
    """One conversation. `messages` holds the turns; the instruction is kept apart."""

    def __init__(
        self, client: Client, options: SamplingOptions, *, system: str = "", stats: bool = False
    ) -> None:
        self.messages: list[Message] = []
        self.system = system
        self.options = options
        self.over = False
        self._client = client
        self._stats = stats
        self._commands: dict[str, Callable[[str], None]] = {
            "/exit": self._exit,
            "/help": lambda _: note(HELP),
            "/model": self._model,
            "/reset": self._reset,
            "/save": self._save,
            "/system": self._system,
        }

    def take(self, text: str) -> None:
        """Carry out a command, or send a message and write the reply as it comes.

        Raises:
            CommandError: The command is unknown or wrong.
            OpenLLMError: A file cannot be written.
            ClientError: The server failed; the conversation is as it was.
        """
        if text.startswith("/"):
            self._command(text)
        elif text.strip():
            self._ask(text.strip())

    def conversation(self) -> list[Message]:
        """Return all that the model is to see: the instruction, if any, and the turns."""
        instruction: list[Message] = [{"role": "system", "content": self.system}]
        return [*instruction, *self.messages] if self.system else list(self.messages)

    def _ask(self, text: str) -> None:
        question: Message = {"role": "user", "content": text}
        started = time.monotonic()
        count = 0
        stream = self._client.chat(
            messages=[*self.conversation(), question], stream=True, **self.options
        )
        try:
            with stream:
                for count, piece in enumerate(stream, 1):  # noqa: B007 - read after the loop
                    write_reply(piece)
        except KeyboardInterrupt:
            note("\n[stopped]")
        finally:
            if stream.message and not stream.message.endswith("\n"):
                write_reply("\n")
        if stream.message:
            self.messages += [question, {"role": "assistant", "content": stream.message}]
        if self._stats:
            seconds = time.monotonic() - started
            note(f"[{count} pieces in {seconds:.1f} s, {count / seconds:.1f}/s]")

    def _command(self, text: str) -> None:
        name, _, argument = text.strip().partition(" ")
        if name not in self._commands:
            raise CommandError(f"no command {name}: /help lists them")
        self._commands[name](argument.strip())

    def _exit(self, _: str) -> None:
        self.over = True

    def _reset(self, _: str) -> None:
        self.messages.clear()
        note("The conversation is forgotten.")

    def _system(self, text: str) -> None:
        self.system = text
        note("The model is instructed." if text else "The instruction is taken back.")

    def _model(self, name: str) -> None:
        served = [model.id for model in self._client.models()]
        if not name:
            note(f"Served: {', '.join(served)}")
        elif name in served:
            self.options["model"] = name
            note(f"Talking to {name}.")
        else:
            raise CommandError(f"no model {name!r} is served; there are: {', '.join(served)}")

    def _save(self, argument: str) -> None:
        words = _split(argument)
        force = "--force" in words
        names = [word for word in words if word != "--force"] or [_file_name()]
        if len(names) > 1:
            raise CommandError(f"/save takes one file, not {len(names)}; quote a name with blanks")
        path = Path(os.path.expanduser(names[0]))
        save(self.conversation(), path, force=force)
        note(f"Saved to {path}.")


def save(messages: list[Message], path: Path, *, force: bool) -> None:
    """Write a conversation as JSON or Markdown, by the file's extension.

    Raises:
        CommandError: The extension is another, or the file exists.
        OpenLLMError: It cannot be written.
    """
    if path.suffix == ".json":
        text = json.dumps({"messages": messages}, ensure_ascii=False, indent=2) + "\n"
    elif path.suffix == ".md":
        text = "\n".join(f"**{each['role']}**\n\n{each['content']}\n" for each in messages)
    else:
        raise CommandError(f"{str(path)!r} ends neither in .json nor in .md")
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise CommandError(f"{path} exists: /save --force {path} replaces it") from None
    except OSError as error:
        raise OpenLLMError(f"cannot write {path}: {error.strerror}") from None


def note(text: str) -> None:
    """Tell the user something that is no reply; on stderr, so that stdout holds replies alone."""
    print(harmless(text), file=sys.stderr, flush=True)


def _split(argument: str) -> list[str]:
    try:
        return shlex.split(argument)
    except ValueError as error:
        raise CommandError(f"/save {argument}: {error}") from None


def _file_name() -> str:
    return time.strftime("chat-%Y%m%d-%H%M%S.md")
