"""What variables that are not ours give to settings that the user left out."""

from __future__ import annotations

import os
from collections.abc import Mapping

from openllm.config.download import DownloadOptions
from openllm.config.effective import Configuration, Setting
from openllm.config.models_dir import VARIABLE

_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""Of these the first that is set counts."""


def with_outside(configuration: Configuration, home: str) -> Configuration:
    """Return the configuration whose settings show what other variables give, for people to read.

    Args:
        configuration: As `openllm.config.effective` returns it.
        home: The folder of the store.

    Raises:
        ConfigurationError: HF_ENDPOINT or the token is wrong.
    """
    entries = tuple(
        entry._replace(settings={**entry.settings, **_of_downloads(entry.download, entry.settings)})
        for entry in configuration.entries
    )
    settings = dict(configuration.settings)
    if settings["models_dir"].value is None:
        settings["models_dir"] = Setting(home, _origin(VARIABLE))
    return configuration._replace(entries=entries, settings=settings)


def _of_downloads(download: DownloadOptions, settings: Mapping[str, Setting]) -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    if download.is_offline and not settings["offline"].value:
        found["offline"] = Setting(True, "HF_HUB_OFFLINE")
    if settings["hub_endpoint"].value is None:
        found["hub_endpoint"] = Setting(download.endpoint, _origin("HF_ENDPOINT"))
    if settings["hub_token"].value is None and (token := download.token) is not None:
        found["hub_token"] = Setting(token, _origin(*_TOKENS, otherwise="saved by `hf auth login`"))
    return found


def _origin(*variables: str, otherwise: str = "default") -> str:
    return next((each for each in variables if os.environ.get(each)), otherwise)
