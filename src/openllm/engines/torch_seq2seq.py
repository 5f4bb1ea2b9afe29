"""The forward pass of an encoder-decoder model, such as T5: the prompt is encoded once, and every
step of the decoder attends to it. It has the methods of `torch_model.CausalModel`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad
from transformers.cache_utils import DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from openllm.engines.torch_cache import KVWindow, Stored, size_of
from openllm.engines.torch_model import Prefill, left_padding, padded


class CrossRows:
    """Keys and values of several encoded prompts as one batch; made anew when rows change."""

    def __init__(self, rows: Sequence[Stored], hidden_size: int) -> None:
        lengths = [size_of(row) for row in rows]
        longest = max(lengths)
        self.cache = DynamicCache()
        for layer in range(len(rows[0])):
            self.cache.layers.append(
                _layer(
                    *(
                        torch.cat([_padded(row[layer][part], longest) for row in rows])
                        for part in (0, 1)
                    )
                )
            )
        keys = self.cache.layers[0].keys
        columns = torch.arange(longest)
        self.mask = (columns < torch.tensor(lengths).unsqueeze(1)).long().to(keys.device)
        # Only the shape of the encoder's output is read once its keys and values are cached.
        self.hidden = torch.zeros(
            len(rows), longest, hidden_size, dtype=keys.dtype, device=keys.device
        )


class Seq2SeqModel:
    """A transformers encoder-decoder model."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self.hidden_size: int = model.config.hidden_size
        start = model.generation_config.decoder_start_token_id
        self.decoder_start: int = model.config.pad_token_id if start is None else start

    def prefill(self, work: Prefill, most: int) -> torch.Tensor:
        """Encode the prompts, whatever their length; return the logits of what follows them.

        A row that was read before has made tokens behind its prompt, which the decoder reads again.
        """
        del most
        rows = list(zip(work.tokens, work.prompt_tokens, strict=True))
        ids, mask = padded([tokens[:count] for tokens, count in rows], "right")
        said = [(self.decoder_start, *tokens[count:]) for tokens, count in rows]
        work.lengths = [len(row) for row in said]
        decoder_ids, decoder_mask = padded(said, "left")
        cross = DynamicCache()
        output = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            decoder_input_ids=decoder_ids.to(self._device),
            decoder_attention_mask=decoder_mask.to(self._device),
            past_key_values=EncoderDecoderCache(work.window, cross),
            use_cache=True,
        )
        work.window.advance(decoder_ids.shape[1])
        work.read = work.longest
        work.cross = [
            [(layer.keys[row : row + 1, :, :n], layer.values[row : row + 1, :, :n])
             for layer in cross.layers]
            for row, n in enumerate(work.prompt_tokens)
        ]  # fmt: skip
        return output.logits[:, -1]

    def step(
        self, ids: Sequence[int], lengths: Sequence[int], window: KVWindow, cross: CrossRows
    ) -> torch.Tensor:
        """Decode one token of each row, whose lengths count it; return [rows, vocabulary]."""
        window.make_room(1)
        columns = window.end - window.start + 1
        cache = EncoderDecoderCache(window, cross.cache)
        cache.is_updated = dict.fromkeys(range(len(cross.cache.layers)), True)
        output = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=cross.hidden),
            attention_mask=cross.mask,
            decoder_input_ids=torch.tensor(ids).unsqueeze(1).to(self._device),
            decoder_attention_mask=left_padding(torch.tensor(lengths), columns).to(self._device),
            past_key_values=cache,
            use_cache=True,
        )
        window.advance(1)
        return output.logits[:, -1]


def _layer(keys: torch.Tensor, values: torch.Tensor) -> DynamicLayer:
    layer = DynamicLayer()
    layer.update(keys, values)
    return layer


def _padded(tensor: torch.Tensor, columns: int) -> torch.Tensor:
    return pad(tensor, (0, 0, 0, columns - tensor.shape[2]))
