"""Whether a model fits the memory that is free, with which context, and with less if need be."""

from __future__ import annotations

from msgspec import Struct

from openllm.models.facts import ModelFacts
from openllm.models.fit import (
    LEAST_CONTEXT,
    SERVER_BYTES,
    Need,
    Use,
    chosen_context,
    default_sequences,
    largest_context,
    need,
)


class Fit(Struct, frozen=True):
    """Whether a model fits under one engine.

    Attributes:
        use: What was judged, with the number of sequences that the engine makes room for.
        need: Bytes it takes then, with the server around it.
        free: Bytes that are free where it is computed.
        largest: The longest context that fits, 0 if none.
        chosen: About the context that the engine takes where none was asked for; else that one.
        context_asked: Whether less context than `use` has would be a failure.
    """

    use: Use
    need: Need
    free: int
    largest: int
    chosen: int
    context_asked: bool

    @property
    def whole(self) -> bool:
        """Whether it fits, and starts, with the context of `use`."""
        return self.need.total <= self.free and self.chosen >= self.use.context

    @property
    def fits(self) -> bool:
        """Whether it fits; where no context was asked for, engines take a shorter one."""
        useful = self.largest >= min(LEAST_CONTEXT, self.use.context)
        return self.whole or (useful and not self.context_asked)

    @property
    def mapped(self) -> bool:
        """Whether it starts nevertheless, with weights read from the disk again and again."""
        rest = self.need.total - self.need.weights
        return not self.fits and self.use.engine == "llamacpp" and rest <= self.free


def judge(facts: ModelFacts, use: Use, free: int, *, context_asked: bool = False) -> Fit:
    """Tell whether the model fits `free` bytes, and how long a context does."""
    server = SERVER_BYTES if use.place == "cpu" else 0
    use = use._replace(sequences=use.sequences or default_sequences(use.engine))
    took = need(facts, use)
    room = free - server
    return Fit(
        use=use,
        need=Need(took.weights, took.cache, took.overhead + server),
        free=free,
        largest=largest_context(facts, use, room),
        chosen=use.context if context_asked else chosen_context(facts, use, room),
        context_asked=context_asked,
    )
