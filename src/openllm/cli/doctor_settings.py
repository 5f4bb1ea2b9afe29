"""`openllm doctor` on the settings: those of the environment and of the configuration file."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

from openllm.cli.doctor_check import Check

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.config.effective import Configuration
    from openllm.config.server import ServerSettings

_FIX = "correct it; openllm config show prints what is in effect"


class SettingsHere:
    """What holds on this machine, read once; whoever asks meanwhile waits."""

    def __init__(self, options: Mapping[str, object]) -> None:
        """Begin to read; `options` are those of the command line."""
        self._read: Future[Configuration] = Future()
        threading.Thread(target=self._begin, args=(options,), daemon=True).start()

    def _begin(self, options: Mapping[str, object]) -> None:
        from openllm.bento.options import read_configuration

        try:
            self._read.set_result(read_configuration(None, options, os.environ))
        except BaseException as error:
            self._read.set_exception(error)

    def get(self) -> Configuration:
        """Return them all.

        Raises:
            OpenLLMError: One is wrong; the message names all that are.
        """
        return self._read.result()

    def right(self) -> Configuration | None:
        """Return them all; None if one is wrong, which is no matter of who asks this."""
        from openllm.errors import OpenLLMError

        try:
            return self.get()
        except OpenLLMError:
            return None

    def download(self) -> DownloadOptions:
        """Return how models are downloaded here."""
        from openllm.config.download import DownloadOptions

        found = self.right()
        return found.download if found else DownloadOptions()

    def server(self) -> ServerSettings:
        """Return how a server is started here."""
        from openllm.config.server import ServerSettings

        found = self.right()
        return found.server if found else ServerSettings()

    def store_origin(self) -> str:
        """Return what chose the folder of the store, "" if nothing did; it is set from then on."""
        from openllm.config.models_dir import VARIABLE

        found = self.right()
        setting = found and found.settings["models_dir"]
        if setting and setting.value is not None:
            return setting.origin
        return VARIABLE if os.environ.get(VARIABLE) else ""


def look_at_settings(settings: SettingsHere) -> Sequence[Check]:
    """Say what is wrong with the variables OPEN_LLM_* and the file that they name."""
    from openllm.config.names import CONFIGURATION, PREFIX
    from openllm.errors import OpenLLMError

    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    text = ", ".join(names) or f"no variable {PREFIX}* is set"
    if file := os.environ.get(CONFIGURATION):
        text += f"; the file is {file}"
    try:
        configuration = settings.get()
    except OpenLLMError as error:
        # Several mistakes come as a heading and a list.
        lines = [line.removeprefix("- ") for line in error.message.splitlines()]
        return [Check("settings", "fail", line, _FIX) for line in lines[1:] or lines]
    from openllm.models.ref import shown_source

    started = ", ".join(shown_source(entry.text) for entry in configuration.entries)
    return (Check("settings", "ok", f"{text}; openllm start would serve {started}"),)
