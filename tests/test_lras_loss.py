"""Every way to compute the loss against the plain one; memory of the chunks; the z penalty."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from benchmarks.loss_memory import loss_peak
from lras import loss
from lras.loss import LossConfig, content_cross_entropy, has_native, impl_for

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
IMPLS = ["chunked", "auto"] + ["native"] * has_native()


def problem(dtype: torch.dtype, rows: int = 70, vocab: int = 300, dim: int = 16):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(rows, dim, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocab, dim, generator=generator, dtype=dtype, requires_grad=True)
    targets = torch.randint(vocab, (rows,), generator=generator)
    return hidden, weight, targets, torch.rand(rows, generator=generator, dtype=dtype)


def plain(hidden, weight, targets, z_weight=0.0):
    """By the definition: nats, and what is to be differentiated."""
    logits = hidden @ weight.T
    nats = F.cross_entropy(logits, targets, reduction="none")
    return nats, nats + z_weight * logits.logsumexp(-1).square()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("z_weight", [0.0, 0.01])
@pytest.mark.parametrize("impl", IMPLS)
def test_values_and_gradients_are_those_of_the_plain_loss(impl, z_weight, dtype):
    hidden, weight, targets, share = problem(dtype)
    cfg = LossConfig(impl=impl, z_weight=z_weight, chunk_elements=11 * 300)
    ours = content_cross_entropy(hidden, weight, targets, cfg)
    nats, total = plain(hidden, weight, targets, z_weight)
    expected = nats, *torch.autograd.grad((total * share).sum(), (hidden, weight))
    found = ours, *torch.autograd.grad((ours * share).sum(), (hidden, weight))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert (one - other).norm() <= TOLERANCE[dtype] * other.norm()


@pytest.mark.parametrize("impl", IMPLS)
def test_without_gradients_rows_are_exact_under_autocast_too(impl):
    hidden, weight, targets, _ = problem(torch.float32)
    cfg = LossConfig(impl=impl, z_weight=0.1, chunk_elements=1000)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        nats = content_cross_entropy(hidden, weight, targets, cfg)
    low = (hidden.bfloat16() @ weight.bfloat16().T).float()
    assert torch.equal(nats, F.cross_entropy(low, targets, reduction="none"))


def test_native_multiplies_in_the_format_of_autocast():
    if not has_native():
        pytest.skip("this torch has no linear cross entropy in chunks")
    hidden, weight, targets, _ = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        nats = content_cross_entropy(hidden, weight, targets, LossConfig(impl="native"))
    assert nats.dtype == torch.float32 and torch.equal(nats, nats.bfloat16().float())


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "sum of two"])
@pytest.mark.parametrize("impl", ["auto", "chunked"])
def test_the_gradients_of_many_chunks_are_added_up_in_float32_under_autocast(impl, leaf):
    rows, vocab = 1024, 300
    hidden, weight, targets, _ = problem(torch.float32, rows, vocab, dim=32)
    with torch.no_grad():  # so that what the chunks add up points the same way
        hidden += 1
        weight *= 0.1

    def gradient(cfg: LossConfig) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            nats = content_cross_entropy(hidden, weight if leaf else weight + 0, targets, cfg)
        return torch.autograd.grad(nats.mean(), weight)[0].double()

    own, other = hidden.detach().double(), weight.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(plain(own, other, targets)[0].mean(), other)
    error = (gradient(LossConfig(impl=impl, chunk_elements=rows // 64 * vocab)) - exact).norm()
    assert error <= 1.5 * (gradient(LossConfig(impl="naive")) - exact).norm()


def test_auto_is_naive_where_logits_are_few_and_else_what_torch_has(monkeypatch):
    cfg = LossConfig(chunk_elements=100)
    assert impl_for(cfg, 100) == "naive"
    monkeypatch.setattr(loss, "has_native", lambda: True)
    assert impl_for(cfg, 101) == "native" == impl_for(cfg, 400, halved=True)
    assert impl_for(cfg, 10**6) == "native" and impl_for(cfg, 401, halved=True) == "chunked"
    monkeypatch.setattr(loss, "has_native", lambda: False)
    assert impl_for(cfg, 101) == "chunked"
    with pytest.raises(ValueError, match=r"set loss\.impl=chunked"):
        impl_for(LossConfig(impl="native"), 1)


def test_an_older_linear_cross_entropy_without_options_does_not_count(monkeypatch):
    monkeypatch.setattr(F, "linear_cross_entropy", lambda x, w, y: None, raising=False)
    assert not has_native()


def test_settings_that_cannot_be_are_refused():
    with pytest.raises((ValueError, TypeCheckError)):  # the checker of annotations comes first
        LossConfig(impl="fast")
    with pytest.raises(ValueError, match=r"loss\.z_weight=-1"):
        LossConfig(z_weight=-1.0)


def test_liger_says_what_it_lacks():
    hidden, weight, targets, _ = problem(torch.float32)
    with pytest.raises(ValueError, match=r"loss\.impl=(auto|liger)"):
        content_cross_entropy(hidden, weight, targets, LossConfig(impl="liger"))


@pytest.mark.parametrize("halved", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("impl", IMPLS)
def test_chunks_take_a_quarter_of_the_memory_or_less(impl, halved):
    sizes = {"rows": 1024, "vocab": 8448, "dim": 64}
    with torch.autocast("cpu", torch.bfloat16, enabled=halved):
        naive, loss = loss_peak(LossConfig(impl="naive"), **sizes)
        peak, same = loss_peak(LossConfig(impl=impl, chunk_elements=2**18), **sizes)
    assert naive > 2 * 4 * 1024 * 8448  # logits and their gradients at least
    assert peak <= 0.25 * naive and same == pytest.approx(loss, rel=1e-2 if halved else 1e-5)
