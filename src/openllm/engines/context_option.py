"""How much context a model is loaded with, where that was asked for."""

from __future__ import annotations

import logging

logger = logging.getLogger("openllm.engines")


def context_asked(name: str, asked: int | None, made_for: int | None) -> int | None:
    """Return the tokens asked for, if any: at most what the model was made for, with a warning.

    Args:
        name: The model's.
        asked: The option `context_length`.
        made_for: The model's own limit; None where it has none, or does not tell.
    """
    if asked is None or made_for is None or asked <= made_for:
        return asked
    logger.warning(
        "context_length %d is more than the %d that model %s was made for; using %d",
        asked, made_for, name, made_for,
    )  # fmt: skip
    return made_for
