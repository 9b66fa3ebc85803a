"""Attention over what was read before, in parts, and over the query's own group, without a mask.

Softmax over several sets of keys is a weighted mean of the softmaxes over each, the weights being
the exponentials of their log-sum-exp. So queries may look at a prefix that many sequences share,
at the rest of their own sequence, and at their own group, each with a plain kernel.

Three backends give the log-sum-exp: ``kernel``, the fused kernels that SDPA itself calls (private
names in torch, hence looked up when asked for); ``flex``, torch's FlexAttention, compiled on an
accelerator; ``math``, matrix products. ``auto`` is ``kernel`` where there is one, else ``math``.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

Backend = Literal["auto", "kernel", "flex", "math"]
# Of some tokens; parts differ in their numbers of rows and tokens.
KeyValue = tuple[Float[Tensor, "_ heads _ head_dim"], Float[Tensor, "_ heads _ head_dim"]]
Mixed = tuple[Float[Tensor, "batch heads seq head_dim"], Float[Tensor, "batch heads seq"]]
SCORES = 2**24  # attention scores that the math backend holds at a time


def attend_parts(
    q: Float[Tensor, "batch heads seq head_dim"],
    own: KeyValue,
    given: Sequence[KeyValue],
    group: int,
    backend: Backend = "auto",
) -> Float[Tensor, "batch heads seq head_dim"]:
    """One softmax over all ``given`` keys and, causally, the query's own group of tokens.

    The sequence is cut into groups of ``group`` tokens that do not see one another; ``group`` = seq
    is a plain causal continuation. A given part serves consecutive rows alike: its batch divides
    that of the queries.
    """
    if group == q.shape[2]:
        mixed = attend(q, *own, causal=True, backend=backend)
    else:
        mixed = _attend_own_group(q, *own, group)
    for keys, values in given:
        mixed = merge(mixed, _attend_shared(q, keys, values, backend))
    return mixed[0].to(q.dtype)


def merge(one: Mixed, other: Mixed) -> Mixed:
    """Softmax over two sets of keys from the softmax over each; sums in float32 at least."""
    (out0, lse0), (out1, lse1) = one, other
    total = torch.logaddexp(lse0, lse1)
    weight0, weight1 = ((lse - total).exp()[..., None] for lse in (lse0, lse1))
    return out0 * weight0 + out1 * weight1, total


def _attend_shared(q: Tensor, keys: Tensor, values: Tensor, backend: Backend) -> Mixed:
    """Rows that share keys are asked as one long sequence: the keys are never repeated."""
    each = len(q) // len(keys)
    if each * len(keys) != len(q):
        raise ValueError(f"{len(keys)} given rows cannot serve {len(q)} rows; one must divide.")
    folded = rearrange(q, "(b n) h s d -> b h (n s) d", n=each)
    out, lse = attend(folded, keys, values, causal=False, backend=backend)
    return (
        rearrange(out, "b h (n s) d -> (b n) h s d", n=each),
        rearrange(lse, "b h (n s) -> (b n) h s", n=each),
    )


def _attend_own_group(q: Tensor, k: Tensor, v: Tensor, group: int) -> Mixed:
    scale = 1 / math.sqrt(q.shape[-1])
    if group == 1:  # a lone token sees itself
        q, k, v = (_wide(t) for t in (q, k, v))
        return v, (q * k).sum(-1) * scale
    split = "b h (n g) d -> b h n g d"
    q, k, v = (_wide(rearrange(t, split, g=group)) for t in (q, k, v))
    future = torch.ones(group, group, dtype=torch.bool, device=q.device).triu(1)
    scores = ((q * scale) @ k.mT).masked_fill(future, -math.inf)
    out, lse = scores.softmax(-1) @ v, scores.logsumexp(-1)
    return rearrange(out, "b h n g d -> b h (n g) d"), rearrange(lse, "b h n g -> b h (n g)")


def attend(
    q: Float[Tensor, "batch heads seq head_dim"],
    k: Float[Tensor, "batch heads given head_dim"],
    v: Float[Tensor, "batch heads given head_dim"],
    causal: bool,
    backend: Backend = "auto",
) -> Mixed:
    """Scaled dot-product attention and the log-sum-exp of its scores (float32).

    ``causal`` takes as many keys as queries.

    Raises:
        ValueError: there is no such backend, or ``kernel`` is asked for where there is none.
    """
    if backend not in get_args(Backend):
        known = ", ".join(get_args(Backend))
        raise ValueError(f"attention={backend} is not known; use one of {known}.")
    if backend == "flex":
        return _flex(q, k, v, causal)
    run = None if backend == "math" else _kernel(q.device.type, q.dtype)
    if run is None and backend == "kernel":
        raise ValueError(
            f"this torch has no attention kernel with log-sum-exp for {q.dtype} on {q.device.type};"
            " use attention=math."
        )
    return _math(q, k, v, causal) if run is None else run(q, k, v, causal)


def _wide(t: Tensor) -> Tensor:
    """At least float32."""
    return t if t.dtype == torch.float64 else t.float()


# --- backends -----------------------------------------------------------------------------------


def _math(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Mixed:
    """Slices of queries, so that the scores stay few."""
    scale, done = 1 / math.sqrt(q.shape[-1]), []
    step = max(1, SCORES // (q.shape[0] * q.shape[1] * k.shape[2]))
    for start in range(0, q.shape[2], step):
        part = q[:, :, start : start + step]
        end = start + part.shape[2] if causal else k.shape[2]
        scores = _wide(part * scale) @ _wide(k[:, :, :end]).mT
        if causal:
            future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device)
            scores = scores.masked_fill(future.triu(1 + start), -math.inf)
        lse = scores.logsumexp(-1)
        done.append(((scores - lse[..., None]).exp() @ _wide(v[:, :, :end]), lse))
    return torch.cat([out for out, _ in done], 2), torch.cat([lse for _, lse in done], 2)


@cache
def _kernel(device: str, dtype: torch.dtype):
    """The fused kernel for a place and type, as a function of (q, k, v, causal), or None."""
    aten = torch.ops.aten
    if device == "cpu":
        fused = getattr(aten, "_scaled_dot_product_flash_attention_for_cpu", None)
        return fused and (lambda q, k, v, causal: fused(q, k, v, 0.0, causal))
    if device == "cuda" and dtype in (torch.bfloat16, torch.float16):
        fused = getattr(aten, "_scaled_dot_product_flash_attention", None)
        return fused and (lambda q, k, v, causal: fused(q, k, v, 0.0, causal)[:2])
    if device == "cuda" and dtype == torch.float32:
        fused = getattr(aten, "_scaled_dot_product_efficient_attention", None)

        def efficient(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Mixed:
            out, lse = fused(q, k, v, None, True, 0.0, causal)[:2]
            return out, lse[..., : q.shape[2]]  # the kernel pads to whole blocks of queries

        return fused and efficient
    return None


def _flex(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Mixed:
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    run = flex_attention if q.device.type == "cpu" else _compiled_flex()
    wanted = {"return_aux": AuxRequest(lse=True)}
    if causal:
        # subtle: a lambda; a function that the tests' shape checker has wrapped does not compile
        wanted["score_mod"] = lambda score, b, h, row, col: torch.where(
            row >= col, score, -math.inf
        )
    out, aux = run(q, k, v, **wanted)
    return out, aux.lse


@cache
def _compiled_flex():
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
