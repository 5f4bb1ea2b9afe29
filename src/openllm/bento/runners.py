"""An `openllm.LLM` as BentoML's older services take it, and BentoML's model store.

`openllm.llm` finds these functions by name, as it may not import this room.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any

import bentoml
from bentoml.exceptions import NotFound
from bentoml.legacy import Runnable, Runner

from openllm.llm.llm import LLM
from openllm.llm.output import GenerationOutput

MAX_NAME = 63


class LLMRunnable(Runnable):
    """What a runner offers: the methods of `LLM` by the same names, with the same arguments.

    BentoML runs one `generate` of a runner after the other; `generate_iterator` and the methods of
    the LLM itself run at the same time and share the engine's batch.
    """

    SUPPORTED_RESOURCES = ("nvidia.com/gpu", "amd.com/gpu", "cpu")
    SUPPORTS_CPU_MULTI_THREADING = True

    def __init__(self, llm: LLM) -> None:
        """Load the model.

        Raises:
            RuntimeError: It cannot be loaded; the cause says why.
        """
        self._llm = llm
        try:
            _ = llm.model
        except Exception as error:
            raise RuntimeError(f"Failed to load the model correctly: {error}") from error

    @Runnable.method(batchable=False)
    def generate(self, *args: Any, **options: Any) -> GenerationOutput:
        """Return the whole answer; see `LLM.generate`."""
        return self._llm.sync_generate(*args, **options)

    @Runnable.method(batchable=False)
    async def generate_iterator(
        self, *args: Any, **options: Any
    ) -> AsyncGenerator[GenerationOutput, None]:
        """Yield the answer so far; see `LLM.generate_iterator`."""
        async with aclosing(self._llm.generate_iterator(*args, **options)) as outputs:
            async for output in outputs:
                yield output

    vllm_generate_iterator = generate_iterator  # Its older name with vLLM.

    @Runnable.method(batchable=False)
    def embed(self, texts: str | Sequence[str]) -> list[list[float]]:
        """Return a vector for each text; see `LLM.embed`."""
        return self._llm.sync_embed(texts)


def llm_runner(llm: LLM) -> Any:
    """Return a runner of `llm`, named like its model, for the process of the service itself.

    A runner in a process of its own would load the model there while `llm.generate` loads it here,
    and BentoML's streams between processes carry text only.
    """
    with _outdated():
        return Runner(
            LLMRunnable,
            runnable_init_params={"llm": llm},
            name=_runner_name(llm.name),
            embedded=True,
        )


def stored_model(tag: str) -> Any:
    """Return the model that BentoML's store holds under `tag`.

    Raises:
        NotFound: There is none; the message says what to do.
    """
    try:
        with _outdated():
            return bentoml.models.get(tag)
    except NotFound:
        raise NotFound(
            f"BentoML's model store has no model {tag}; store the files with"
            f" bentoml.models.create({tag!r}), or name a stored model (`bentoml models list`) by"
            " LLM(..., model_tag=...)"
        ) from None


@contextmanager
def _outdated() -> Iterator[None]:
    """Silence that BentoML's older services, and packages it uses, will go: we know."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _runner_name(model: str) -> str:
    """Return the model's name in the characters that BentoML allows."""
    return re.sub(r"[^-._a-z0-9]+", "-", model.lower()).strip("-._")[:MAX_NAME] or "llm"
