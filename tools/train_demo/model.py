"""The network: a small Llama in plain PyTorch with the tensor names of transformers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    vocab: int = 4096
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 768
    context: int = 1024
    theta: float = 10_000.0
    eps: float = 1e-5

    @property
    def head(self) -> int:
        """Return the size of one attention head."""
        return self.hidden // self.heads


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [batch, heads, length, head], halves convention."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


class Attention(nn.Module):
    """Grouped-query attention."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        kv_size = shape.kv_heads * shape.head
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return [batch, length, hidden]; mask is boolean [batch, 1, length, length]."""
        batch, length, _ = x.shape
        shape = self.shape

        def heads(y: Tensor, count: int) -> Tensor:
            return y.view(batch, length, count, shape.head).transpose(1, 2)

        q = rotate(heads(self.q_proj(x), shape.heads), cos, sin)
        k = rotate(heads(self.k_proj(x), shape.kv_heads), cos, sin)
        v = heads(self.v_proj(x), shape.kv_heads)
        repeat = shape.heads // shape.kv_heads
        k, v = k.repeat_interleave(repeat, 1), v.repeat_interleave(repeat, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, -1))  # type: ignore[no-any-return]


class Feed(nn.Module):
    """The gated feed-forward part."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return [batch, length, hidden]."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))  # type: ignore[no-any-return]


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.eps)
        self.mlp = Feed(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Return [batch, length, hidden]."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))  # type: ignore[no-any-return]


class Body(nn.Module):
    """Embedding, layers and final norm, named as in transformers' ``model.``."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.eps)


class Llama(nn.Module):
    """The language model with tied input and output embeddings."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Body(shape)
        frequencies = shape.theta ** (-torch.arange(0, shape.head, 2) / shape.head)
        angles = torch.outer(torch.arange(shape.context).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for name, weight in self.named_parameters():
            if weight.dim() < 2:
                continue
            scale = 0.02
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                scale /= (2 * self.shape.layers) ** 0.5
            nn.init.normal_(weight, std=scale)

    def hidden(self, tokens: Tensor, document: Tensor) -> Tensor:
        """Return final states [batch, length, hidden]; tokens see only their own document."""
        length = tokens.shape[1]
        mask = (document[:, None, :, None] == document[:, None, None, :]).tril()
        x = self.model.embed_tokens(tokens)
        kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        cos, sin = self.get_buffer("cos")[:length], self.get_buffer("sin")[:length]
        cos, sin = cos.to(kind), sin.to(kind)
        for layer in self.model.layers:
            x = layer(x, cos, sin, mask)
        return self.model.norm(x)  # type: ignore[no-any-return]

    def loss(self, tokens: Tensor, weights: Tensor, document: Tensor) -> Tensor:
        """Return the weighted cross entropy (nats) of each next token of the same document."""
        states = self.hidden(tokens, document)[:, :-1]
        same = document[:, 1:] == document[:, :-1]
        weight = (weights[:, 1:] * same).flatten()
        logits = F.linear(states.flatten(0, 1), self.model.embed_tokens.weight).float()
        losses = F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")
        return (losses * weight).sum() / weight.sum()


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
