"""`openllm doctor` on the settings of the environment and the configuration file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from openllm.cli.doctor_check import Check

if TYPE_CHECKING:
    from openllm.config.download import DownloadOptions
    from openllm.config.effective import Configuration
    from openllm.config.server import ServerSettings

_FIX = "correct it; openllm config show prints what is in effect"


def download_options() -> DownloadOptions:
    """Return how models would be downloaded here; settings that are wrong are not its matter."""
    from openllm.config.download import DownloadOptions

    found = _configuration()
    return found.download if found else DownloadOptions()


def server_settings() -> ServerSettings:
    """Return how a server would be started here; settings that are wrong are not its matter."""
    from openllm.config.server import ServerSettings

    found = _configuration()
    return found.server if found else ServerSettings()


def _configuration() -> Configuration | None:
    from openllm.bento.options import read_configuration
    from openllm.errors import ConfigurationError

    try:
        return read_configuration(None, {}, os.environ)
    except ConfigurationError:
        return None


def look_at_settings() -> Sequence[Check]:
    """Say what is wrong with the variables OPEN_LLM_* and the file that they name."""
    from openllm.bento.options import read_configuration
    from openllm.config.environment import CONFIGURATION
    from openllm.config.fields import PREFIX
    from openllm.errors import OpenLLMError

    names = sorted(name for name in os.environ if name.startswith(PREFIX))
    text = ", ".join(names) or f"no variable {PREFIX}* is set"
    if file := os.environ.get(CONFIGURATION):
        text += f"; the file is {file}"
    try:
        configuration = read_configuration(None, {}, os.environ)
    except OpenLLMError as error:
        # Several mistakes come as a heading and a list.
        lines = [line.removeprefix("- ") for line in error.message.splitlines()]
        return [Check("settings", "fail", line, _FIX) for line in lines[1:] or lines]
    started = ", ".join(entry.text for entry in configuration.entries)
    return (Check("settings", "ok", f"{text}; openllm start would serve {started}"),)
