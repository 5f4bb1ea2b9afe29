"""A loaded vLLM and what requests need to know of it."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import numpy as np
import vllm
from vllm import PoolingParams
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams
from vllm.sampling_params import SamplingParams as NativeParams

from openllm.engines.hf_tokens import TokenTable, check_vocabulary
from openllm.engines.vllm_errors import request_error
from openllm.engines.vllm_request import LoadedModel, context_of, sampling_arguments, seed_of
from openllm.engines.vllm_stream import SequenceStream, merge
from openllm.engines.vllm_structure import Structures
from openllm.errors import (
    EngineStartError,
    EngineUnavailableError,
    InvalidRequestError,
    OpenLLMError,
)
from openllm.types import CompletionChunk, GenerateRequest, LocalModel, SamplingParams

CLOSE_SECONDS = 0.5
"""For vLLM's process to end by itself; what holds a model rarely does in less than five."""


class Session:
    """vLLM with one model.

    Attributes:
        client: vLLM's `AsyncLLM`.
        model: Facts that requests are checked against.
        structures: Which schemas and grammars it can follow.
        places: Sequences generated at once.
        kv_cache_tokens: Tokens that fit the KV cache.
        adapters: vLLM's requests for the LoRA adapters, by our names.
        pools: It embeds; else it generates.
        version: Version of vLLM.
    """

    def __init__(self, client: Any, model: LocalModel) -> None:
        """Read the facts of a client whose processes run `model`.

        Raises:
            ConfigurationError: It was given a tokenizer that has more tokens than it.
            EngineStartError: The tokenizer is none of transformers.
        """
        config = client.model_config
        tokenizer = client.get_tokenizer()
        try:
            table = TokenTable(tokenizer)
        except AttributeError as error:
            raise EngineStartError(
                f"the tokenizer {type(tokenizer).__name__} is none of transformers ({error}); "
                "leave out the engine argument tokenizer_mode"
            ) from error
        vocabulary = int(config.get_vocab_size())
        if model.tokenizer is not None:
            check_vocabulary(table, vocabulary, model.tokenizer.path)
        self.client = client
        self.model = LoadedModel(
            name=model.name,
            vocabulary=vocabulary,
            context=context_of(config),
            table=table,
        )
        self.structures = Structures(tokenizer, self.model.vocabulary)
        self.places = int(client.vllm_config.scheduler_config.max_num_seqs)
        cache = client.vllm_config.cache_config
        self.kv_cache_tokens = int(cache.num_gpu_blocks or 0) * int(cache.block_size or 0)
        self.adapters = {
            adapter.name: LoRARequest(adapter.label, number, adapter.path)
            for number, adapter in enumerate(model.adapters, 1)
        }
        self.pools = config.runner_type == "pooling"
        self.version = str(vllm.__version__)

    def generate(
        self, request: GenerateRequest, ids: list[int], limit: int, structure: dict[str, str] | None
    ) -> AsyncGenerator[CompletionChunk, None]:
        """Return the chunks of all sequences, each a request of its own to vLLM.

        Args:
            request: What was asked for.
            ids: Its prompt.
            limit: Most tokens to make, at most what the context holds.
            structure: Arguments from `Structures`, if the text is to be held to something.

        Raises:
            InvalidRequestError: A value is out of range; `param` names it.
        """
        arguments = sampling_arguments(request.params, self.model, limit)
        if structure is not None:
            arguments["structured_outputs"] = StructuredOutputsParams(**structure)
        sequences = [
            self._sequence(request, ids, arguments, index) for index in range(request.params.n)
        ]
        return sequences[0] if len(sequences) == 1 else merge(sequences)

    async def embed(self, ids: list[int]) -> bytes:
        """Return the vector of one input: float32, unit length."""
        prompt = {"type": "token", "prompt_token_ids": ids}
        outputs = self.client.encode(
            prompt, PoolingParams(task="embed"), "embed", lora_request=self.adapters.get("")
        )
        vector = np.zeros(0, np.float32)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    vector = output.outputs.data.float().numpy()
        except Exception as error:
            raise request_error(error) from error
        return (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32).tobytes()

    async def load_adapters(self) -> None:
        """Load all of them; raises `EngineStartError` for one that does not fit the model."""
        for adapter in self.adapters.values():
            await self._add(adapter)

    async def warm_up(self) -> None:
        """Run what is made or compiled when it is first used."""
        if self.pools:
            await self.embed([0])
            return
        for params in (
            SamplingParams(temperature=0.0),
            SamplingParams(top_k=2, top_p=0.9, min_p=0.01, seed=0, logprobs=1),
            SamplingParams(presence_penalty=0.1, repetition_penalty=1.1, logit_bias={0: 0.1}),
        ):
            request = GenerateRequest(request_id="warm-up", params=params)
            # Some engine arguments exclude some samplers.
            with contextlib.suppress(InvalidRequestError):
                async with aclosing(self.generate(request, [0], 2, None)) as chunks:
                    async for _ in chunks:
                        pass

    async def _add(self, adapter: LoRARequest) -> None:
        try:
            await self.client.add_lora(adapter)
        except Exception as error:
            raise EngineStartError(
                f"vLLM cannot use the adapter {adapter.lora_name}: {error}"
            ) from error

    async def close(self) -> None:
        """End all requests and vLLM's processes."""
        stopped = EngineUnavailableError(f"model {self.model.name!r} was stopped")
        self.client.output_processor.propagate_error(stopped)
        if self.client.output_handler is not None:
            self.client.output_handler.cancel()  # Else it would report the end as a failure.
        await asyncio.sleep(0)  # The requests end now, while their sockets are there.
        await asyncio.to_thread(self.client.shutdown, CLOSE_SECONDS)
        await asyncio.sleep(0)  # Only now the sockets are closed, of which vLLM leaves the context.
        with contextlib.suppress(AttributeError):
            self.client.engine_core.resources.ctx.destroy(linger=0)
        multiprocessing.active_children()  # Those that ended are no zombies then.

    async def _sequence(
        self, request: GenerateRequest, ids: list[int], arguments: dict[str, Any], index: int
    ) -> AsyncGenerator[CompletionChunk, None]:
        stream = SequenceStream(request.params, index, arguments["max_tokens"], self.model.table)
        try:
            native = NativeParams(
                **arguments,
                seed=seed_of(request.params, index),
                output_kind=RequestOutputKind.DELTA,
            )
            prompt = {"type": "token", "prompt_token_ids": ids}
            outputs = self.client.generate(
                prompt, native, request.request_id, lora_request=self.adapters.get(request.adapter)
            )
            async with aclosing(outputs):
                async for output in outputs:
                    for chunk in stream.take(output):
                        yield chunk
                    if stream.ended:
                        return
        except OpenLLMError:
            raise
        except Exception as error:
            raise request_error(error) from error
