"""How settings are named where a user writes them: as flags, and as variables of the environment.

Needs nothing else, so that commands which read no settings start without what checks them.
"""

from __future__ import annotations

from openllm.config.sources import model_key

PREFIX = "OPEN_LLM_"

CONFIGURATION = "OPEN_LLM_CONFIGURATION"
"""The variable that names the configuration file."""
MODELS = "OPEN_LLM_MODELS"
"""The variable that says what to serve when nothing else does."""
URL = "OPEN_LLM_URL"
"""The variable that tells clients where the server is."""
COMPARE_API_KEY = "OPEN_LLM_COMPARE_API_KEY"
"""The variable with the key of the second server of `openllm bench`."""

RESERVED = frozenset({CONFIGURATION, MODELS, URL, COMPARE_API_KEY})
"""Variables of our prefix that are no options of the server."""


def flag(name: str) -> str:
    """Return how the command line spells the option `name`."""
    return "--" + name.replace("_", "-")


def variable(name: str, model: str = "") -> str:
    """Return the environment variable of field `name`, for `model` alone if one is given."""
    middle = f"{model_key(model)}_" if model else ""
    return f"{PREFIX}{middle}{name.upper()}"
