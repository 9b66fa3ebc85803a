"""Attention in parts equals one masked softmax over all of them, whatever the kernel."""

import math

import pytest
import torch

from lras import attend as module
from lras.attend import attend, attend_parts, merge

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TOLERANCE = {  # of values near 1; the fused kernels round in their own way
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 4e-3,  # half a unit in the last place of 1 is 5e-4
    torch.bfloat16: 3e-2,  # and 4e-3
}
GIVEN = [  # (rows, length) of every part, for 4 rows of queries
    [],
    [(4, 7)],
    [(1, 5)],
    [(2, 9)],
    [(1, 11), (2, 3), (4, 6)],
    [(4, 1), (1, 1)],
]


def draw(rows, length, seed, dtype=torch.float32, device="cpu", heads=3, head_dim=8):
    generator = torch.Generator().manual_seed(seed)
    shape = rows, heads, length, head_dim
    return (1.7 * torch.randn(shape, generator=generator)).to(device, dtype)


def draw_parts(given, dtype=torch.float32, device="cpu"):
    return [
        tuple(draw(rows, length, 10 * i + which, dtype, device) for which in (3, 4))
        for i, (rows, length) in enumerate(given)
    ]


def masked_softmax(q, own, given, group):
    """All keys in one row, float64, a boolean mask, no sharing: every part is repeated."""
    q, k, v = (t.double() for t in (q, *own))
    rows, seq = len(q), q.shape[2]
    parts = [tuple(t.double().repeat_interleave(rows // len(t), 0) for t in kv) for kv in given]
    keys = torch.cat([*(part[0] for part in parts), k], 2)
    values = torch.cat([*(part[1] for part in parts), v], 2)
    before = keys.shape[2] - seq
    sees = torch.zeros(seq, before + seq, dtype=torch.bool, device=q.device)
    for i in range(seq):
        sees[i, :before] = True
        sees[i, before + i // group * group : before + i + 1] = True
    scores = (q @ keys.mT / math.sqrt(q.shape[-1])).masked_fill(~sees, -math.inf)
    return scores.softmax(-1) @ values


def check(given, group, seq, dtype, device, backend):
    q, k, v = (draw(4, seq, seed, dtype, device) for seed in range(3))
    parts = draw_parts(given, dtype, device)
    mixed = attend_parts(q, (k, v), parts, group, backend)
    assert mixed.dtype == dtype and mixed.shape == q.shape
    expected = masked_softmax(q, (k, v), parts, group)
    assert (mixed.double() - expected).abs().max() <= TOLERANCE[dtype]


@pytest.mark.parametrize("group, seq", [(1, 1), (1, 6), (4, 12), (12, 12), (3, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", ["auto", "kernel", "math"])
def test_parts_equal_one_masked_softmax(group, seq, dtype, backend):
    for given in GIVEN:
        check(given, group, seq, dtype, "cpu", backend)


@pytest.mark.parametrize("group, seq", [(1, 6), (4, 12), (12, 12)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_flex_equals_one_masked_softmax(group, seq, dtype):
    check(GIVEN[4], group, seq, dtype, "cpu", "flex")


@needs_cuda
@pytest.mark.parametrize("group, seq", [(1, 6), (4, 12), (12, 12), (5, 75)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", ["auto", "kernel", "flex", "math"])
def test_parts_equal_one_masked_softmax_on_cuda(group, seq, dtype, backend):
    for given in GIVEN:
        check(given, group, seq, dtype, "cuda", backend)


@pytest.mark.parametrize("backend", ["auto", "math", "flex"])
@pytest.mark.parametrize("causal", [True, False])
def test_log_sum_exp_is_that_of_the_scores(backend, causal):
    q, k, v = (draw(2, 70, seed) for seed in range(3))
    _, lse = attend(q, k, v, causal, backend)
    scores = q.double() @ k.double().mT / math.sqrt(8)
    if causal:
        scores = scores.masked_fill(torch.ones(70, 70).triu(1).bool(), -math.inf)
    assert lse.shape == (2, 3, 70)
    assert (lse - scores.logsumexp(-1)).abs().max() <= 1e-5


@pytest.mark.parametrize("causal", [True, False])
def test_math_in_slices_of_queries_is_the_same(causal, monkeypatch):
    q, k, v = (draw(2, 37, seed) for seed in range(3))
    whole = attend(q, k, v, causal, "math")
    monkeypatch.setattr(module, "SCORES", 2 * 3 * 37 * 5)  # five queries at a time
    sliced = attend(q, k, v, causal, "math")
    for one, other in zip(whole, sliced, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_order_of_the_parts_does_not_matter():
    q, k, v = (draw(4, 6, seed) for seed in range(3))
    parts = draw_parts(GIVEN[4])
    one, other = (attend_parts(q, (k, v), p, 2) for p in (parts, parts[::-1]))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_each_part_has_its_say():
    q, k, v = (draw(4, 6, seed) for seed in range(3))
    parts = draw_parts(GIVEN[4])
    whole = attend_parts(q, (k, v), parts, 2)
    for i in range(3):
        without = attend_parts(q, (k, v), parts[:i] + parts[i + 1 :], 2)
        assert (whole - without).abs().amax((1, 2, 3)).min() > 1e-2


def test_rows_of_a_shared_part_serve_consecutive_queries():
    q, k, v = (draw(4, 5, seed) for seed in range(3))
    (keys, values), = draw_parts([(2, 9)])  # fmt: skip
    shared = attend_parts(q, (k, v), [(keys, values)], 5)
    for row in range(4):
        alone = slice(row, row + 1), slice(row // 2, row // 2 + 1)
        part = keys[alone[1]], values[alone[1]]
        one = attend_parts(q[alone[0]], (k[alone[0]], v[alone[0]]), [part], 5)
        torch.testing.assert_close(shared[alone[0]], one, rtol=0, atol=1e-5)


def test_merge_of_very_unequal_parts_is_finite_and_follows_the_heavier():
    out0, out1 = torch.full((1, 1, 2, 3), 5.0), torch.full((1, 1, 2, 3), -1.0)
    light, heavy = torch.full((1, 1, 2), -300.0), torch.tensor([[[300.0, -300.0]]])
    out, lse = merge((out0, light), (out1, heavy))
    assert out[0, 0, :, 0].tolist() == pytest.approx([-1.0, 2.0], abs=1e-4)
    assert lse[0, 0].tolist() == pytest.approx([300.0, -300.0 + math.log(2)], abs=1e-4)


@pytest.mark.parametrize("rows", [3, 8])
def test_rows_that_do_not_divide_are_refused(rows):
    q, k, v = (draw(4, 6, seed) for seed in range(3))
    with pytest.raises(ValueError, match=f"{rows} given rows cannot serve 4 rows"):
        attend_parts(q, (k, v), draw_parts([(rows, 5)]), 2)


def test_unknown_backend_is_refused():
    q = draw(1, 3, 0)
    # With the shape checker on, it objects first, with its own error.
    with pytest.raises((ValueError, TypeError), match="fused"):
        attend(q, q, q, False, "fused")


def test_place_without_a_kernel_falls_back_or_says_so(monkeypatch):
    q, k, v = (draw(2, 9, seed) for seed in range(3))
    expected = attend(q, k, v, True, "math")
    monkeypatch.setattr(module, "_kernel", lambda device, dtype: None)
    for one, other in zip(attend(q, k, v, True, "auto"), expected, strict=True):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match=r"no attention kernel .*float32 on cpu; use attention=m"):
        attend(q, k, v, True, "kernel")


def test_places_that_have_no_kernel_are_known():
    assert module._kernel("meta", torch.float32) is None
    assert module._kernel("cuda", torch.float64) is None
