"""Marks that a settings field carries in `Annotated`, beside its type and its limits."""

from __future__ import annotations


class Alias:
    """Gives a field further names, good wherever its own is: as a flag, a variable, in a file."""

    def __init__(self, *names: str) -> None:
        """Take the names as Python writes them, such as `max_model_len`."""
        self.names = names


class Blanks:
    """Marks a list whose items have no blanks: they separate them in the environment."""


class ByModel:
    """Marks a field whose flag may be repeated and name models, as in `llama:gpu:0,demo:cpu`."""
