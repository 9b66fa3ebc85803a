"""The transformer block: attention over (prefix, self), rotary places, norms, MLP.

Every block runs in ways that agree: causally over a whole sequence (training, and encoding a prefix
whose keys and values are kept), over tokens that continue what was read before, and as many small
groups of queries that each see the whole prefix and their own group, never one another (parallel
read-out).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from lras.attend import Backend, KeyValue, attend_parts
from lras.config import PredictorConfig

SHORT_SEQUENCE = 1024  # tokens
QUERY_SLICE = 128  # tokens
SCORES = 2**28  # attention scores of a parallel read-out that are held at a time


class Rotation(NamedTuple):
    """Cosine and sine of every token's rotary angles; None of it is learned."""

    cos: Float[Tensor, "batch 1 seq pairs"]
    sin: Float[Tensor, "batch 1 seq pairs"]

    def inverse(self) -> "Rotation":
        return Rotation(self.cos, -self.sin)


def rotary_angles(
    rows: Float[Tensor, "batch seq"], cols: Float[Tensor, "batch seq"], head_dim: int
) -> Rotation:
    """Angles from a token's true place in the image, half of the pairs for each axis.

    Frequencies fall geometrically from 2.4 to 0.12 rad per patch; the last of each axis is 0, so
    some channels compare content alone. Only differences of place enter attention.
    """
    per_axis = head_dim // 4
    spread = torch.arange(per_axis - 1, device=rows.device) / max(per_axis - 2, 1)
    frequency = F.pad(2.4 * 0.05**spread, (0, 1))
    angles = torch.cat([rows[..., None] * frequency, cols[..., None] * frequency], dim=-1)
    return Rotation(angles.cos()[:, None], angles.sin()[:, None])


def rotate(
    x: Float[Tensor, "batch heads seq head_dim"], rotation: Rotation
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Turn channel pairs (c, c + dim / 2) by the token's angles."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def make_norm(cfg: PredictorConfig) -> nn.Module:
    """RMS norm, or LayerNorm without bias (eps 1e-5) as published."""
    return nn.RMSNorm(cfg.dim, eps=1e-6) if cfg.norm == "rms" else nn.LayerNorm(cfg.dim, bias=False)


class Attention(nn.Module):
    """Attention whose order is the sequence's and whose places are the image's.

    With rotary positions the queries and keys turn by their place, and so do the values of the
    first half of the heads; their mixture is turned back by the query's place, so what is carried
    is where the source stood relative to the reader.
    """

    def __init__(self, cfg: PredictorConfig) -> None:
        super().__init__()
        self.num_heads, self.head_dim = cfg.num_heads, cfg.dim // cfg.num_heads
        self.query = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.key = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.value = nn.Linear(cfg.dim, cfg.dim, bias=False)
        self.out = nn.Linear(cfg.dim, cfg.dim, bias=False)
        # A learned temperature per head: logits of random unit keys start with this deviation.
        self.sharpness = (
            nn.Parameter(torch.full((cfg.num_heads, 1, 1), 1.5)) if cfg.qk_norm else None
        )

    def project(
        self, x: Float[Tensor, "batch seq dim"], rotation: Rotation | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, (batch, heads, seq, head_dim), turned by place."""
        weight = torch.cat([self.query.weight, self.key.weight, self.value.weight])
        q, k, v = rearrange(
            F.linear(x, weight), "b s (three h d) -> three b h s d", three=3, h=self.num_heads
        )
        if self.sharpness is not None:
            q = F.rms_norm(q, (self.head_dim,)) * self.sharpness.to(q.dtype)
            k = F.rms_norm(k, (self.head_dim,))
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
            v = self._turn_half(v, rotation)
        return q, k, v

    def merge(self, mixed: Tensor, rotation: Rotation | None) -> Float[Tensor, "batch seq dim"]:
        """Heads back to channels, turned values back by the reader's place."""
        if rotation is not None:
            mixed = self._turn_half(mixed, rotation.inverse())
        return self.out(rearrange(mixed, "b h s d -> b s (h d)"))

    def _turn_half(self, v: Tensor, rotation: Rotation) -> Tensor:
        turned = self.num_heads // 2
        return torch.cat([rotate(v[:, :turned], rotation), v[:, turned:]], dim=1)


class Block(nn.Module):
    """Pre-norm attention and MLP. Order in the sequence is reveal order, not raster order."""

    def __init__(self, cfg: PredictorConfig) -> None:
        super().__init__()
        hidden = int(cfg.mlp_ratio * cfg.dim)
        self.attention_norm, self.mlp_norm = make_norm(cfg), make_norm(cfg)
        self.attention = Attention(cfg)
        self.up = nn.Linear(cfg.dim, hidden, bias=False)
        self.down = nn.Linear(hidden, cfg.dim, bias=False)
        self.squared_relu = cfg.mlp == "squared_relu"

    def forward(
        self, x: Float[Tensor, "batch seq dim"], rotation: Rotation | None
    ) -> tuple[Float[Tensor, "batch seq dim"], KeyValue]:
        """Causal pass over a whole sequence; also hands out its keys and values."""
        q, k, v = self.attention.project(self.attention_norm(x), rotation)
        mixed = causal_attention(q, k, v)
        x = x + self.attention.merge(mixed, rotation)
        return x + self.mlp(self.mlp_norm(x)), (k, v)

    def read_groups(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation | None,
        prefix: KeyValue,
        group: int,
    ) -> Float[Tensor, "batch seq dim"]:
        """Consecutive groups of ``group`` tokens: each sees the prefix and, causally, itself."""
        q, k, v = self.attention.project(self.attention_norm(x), rotation)
        mixed = attend_prefix_and_group(q, k, v, prefix, group)
        x = x + self.attention.merge(mixed, rotation)
        return x + self.mlp(self.mlp_norm(x))

    def read_parts(
        self,
        x: Float[Tensor, "batch seq dim"],
        rotation: Rotation | None,
        given: Sequence[KeyValue],
        group: int,
        backend: Backend = "auto",
    ) -> tuple[Float[Tensor, "batch seq dim"], KeyValue]:
        """Groups of ``group`` tokens that see all given parts and, causally, their own group.

        Also hands out the keys and values of the new tokens.
        """
        q, k, v = self.attention.project(self.attention_norm(x), rotation)
        mixed = attend_parts(q, (k, v), given, group, backend)
        x = x + self.attention.merge(mixed, rotation)
        return x + self.mlp(self.mlp_norm(x)), (k, v)

    def read_on(
        self,
        x: Float[Tensor, "batch new dim"],
        rotation: Rotation | None,
        keep: Callable[[Tensor, Tensor], KeyValue],
        mask: Float[Tensor, "new given"] | None,
    ) -> Float[Tensor, "batch new dim"]:
        """Causally over tokens that continue what was read before.

        ``keep`` takes their keys and values and gives those of all tokens so far; ``mask`` is added
        to the scores, None = a new token sees all, unless there were none before.
        """
        q, k, v = self.attention.project(self.attention_norm(x), rotation)
        keys, values = keep(k, v)
        if q.shape[2] == keys.shape[2]:
            mixed = causal_attention(q, keys, values)
        else:
            mask = None if mask is None else mask.to(q.dtype)  # differs under autocast only
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        x = x + self.attention.merge(mixed, rotation)
        return x + self.mlp(self.mlp_norm(x))

    def mlp(self, x: Tensor) -> Tensor:
        x = self.up(x)
        return self.down(F.relu(x).square() if self.squared_relu else F.gelu(x))


def causal_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch heads seq head_dim"],
    v: Float[Tensor, "batch heads seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Plain causal attention with the fastest implementation there is for the place and length.

    On CPU the backward of the fused bfloat16 kernel costs more than matrix products of slices, at
    the lengths of the small presets (benchmarks/attention.py).
    """
    slow_kernel = q.device.type == "cpu" and q.dtype == torch.bfloat16
    if slow_kernel and q.shape[-2] <= SHORT_SEQUENCE:
        return sliced_attention(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def sliced_attention(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch heads seq head_dim"],
    v: Float[Tensor, "batch heads seq head_dim"],
) -> Float[Tensor, "batch heads seq head_dim"]:
    """Causal attention in slices of queries, each stopping at its last visible key."""
    length, mixed = q.shape[-2], []
    for start in range(0, length, QUERY_SLICE):
        end = min(start + QUERY_SLICE, length)
        scores = (q[..., start:end, :] / math.sqrt(q.shape[-1])) @ k[..., :end, :].mT
        future = torch.full(scores.shape[-2:], -math.inf, dtype=q.dtype).triu(1 + start)
        mixed.append((scores + future).softmax(-1) @ v[..., :end, :])
    return torch.cat(mixed, dim=-2)


def attend_prefix_and_group(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch heads seq head_dim"],
    v: Float[Tensor, "batch heads seq head_dim"],
    prefix: KeyValue,
    group: int,
) -> Float[Tensor, "batch heads seq head_dim"]:
    """One softmax over the shared prefix and the query's own group; needs no sequence-wide mask.

    Groups do not see one another, so they may come in slices where their scores would be many.
    """
    per_group = group * q.shape[0] * q.shape[1] * (prefix[0].shape[-2] + group)
    step = group * max(1, SCORES // per_group)
    if q.shape[-2] <= step:
        return _attend_groups(q, k, v, prefix, group)
    slices = zip(*(t.split(step, dim=-2) for t in (q, k, v)), strict=True)
    return torch.cat([_attend_groups(*part, prefix, group) for part in slices], dim=-2)


def _attend_groups(q: Tensor, k: Tensor, v: Tensor, prefix: KeyValue, group: int) -> Tensor:
    prefix_k, prefix_v = prefix
    split = "b h (n g) d -> b h n g d"
    own_q, own_k, own_v = (rearrange(t, split, g=group) for t in (q, k, v))
    scale = 1 / math.sqrt(q.shape[-1])
    to_prefix = (q * scale) @ prefix_k.mT  # (b, h, seq, prefix)
    to_self = (own_q * scale) @ own_k.mT  # (b, h, n, g, g)
    future = torch.ones(group, group, dtype=torch.bool, device=q.device).triu(1)
    to_self = rearrange(to_self.masked_fill(future, -math.inf), "b h n g e -> b h (n g) e")
    scores = torch.cat([to_prefix, to_self], dim=-1)
    weights = (scores if v.dtype == torch.float64 else scores.float()).softmax(-1).to(v.dtype)
    from_prefix = weights[..., :-group] @ prefix_v
    from_self = rearrange(weights[..., -group:], "b h (n g) e -> b h n g e", g=group) @ own_v
    return from_prefix + rearrange(from_self, "b h n g d -> b h (n g) d")
