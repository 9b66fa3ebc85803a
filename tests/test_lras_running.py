"""How blocks run changes no value: compiled, recomputed, accumulated; and a step never waits."""

import copy

import lightning as L
import pytest
import torch
from jaxtyping import TypeCheckError
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from data.curriculum import Stage, SyntheticDataModule
from lras.config import PredictorConfig, QuantizerConfig
from lras.loss import LossConfig
from lras.optim import adamw, muon
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.running import Running, block_runner, run_block
from lras.sequence import patches_within
from tests.test_plain_trainer import SCENE, plain_trainer
from tests.tiny_model import states_equal, tiny_model

CFG = PredictorConfig.modern(image_size=32, num_codes=24, dim=16, num_heads=2, num_layers=3)


def network() -> FramePredictor:
    torch.manual_seed(0)
    net = FramePredictor(CFG)
    for block in net.blocks:  # these start at zero and would hide what the blocks do
        torch.nn.init.normal_(block.attention.out.weight, std=0.1)
        torch.nn.init.normal_(block.down.weight, std=0.1)
    return net


def values(net: FramePredictor, sides: int = 8) -> list[torch.Tensor]:
    """The loss of one batch and all gradients."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(24, (2, sides**2, 1), generator=generator)
    order = torch.rand(2, sides**2, generator=generator).argsort(1)
    net.zero_grad()
    loss = net(codes, codes.flip(0), order, order, CFG.grid).mean()
    loss.backward()
    return [loss.detach()] + [p.grad for p in net.parameters() if p.grad is not None]


def equal(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("recompute", ["block", "selective"])
def test_recomputed_blocks_have_the_same_loss_and_gradients(recompute):
    net = network()
    plain = values(net)
    net.run_block = block_runner(Running(recompute=recompute))
    assert equal(values(net), plain)


class Counts(TorchDispatchMode):
    """How often each operation was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen[func] = self.seen.get(func, 0) + 1
        return func(*args, **(kwargs or {}))


def test_selective_computes_no_product_and_no_attention_again_but_a_whole_block_does():
    aten, dear = torch.ops.aten, {}
    names = (aten.mm, aten.bmm, aten.addmm, aten._scaled_dot_product_flash_attention_for_cpu)
    for recompute in ("none", "selective", "block"):
        net = network()
        net.run_block = block_runner(Running(recompute=recompute))
        with Counts() as counts:
            values(net)
        dear[recompute] = sum(counts.seen.get(op, 0) for op in (n.default for n in names))
        assert all(counts.seen.get(op.default) for op in (names[0], names[-1]))
    assert dear["none"] == dear["selective"] < dear["block"]


def test_all_blocks_share_one_compiled_graph_and_a_copy_runs_its_own_weights(monkeypatch):
    counter = CompileCounter()
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **k: compile_(run, backend=counter, **k))
    net = network()
    plain, blocks = values(net), net.blocks
    net.run_block = block_runner(Running(compile="block"))
    net.blocks = blocks[:1]
    values(net)
    for_one = counter.frame_count  # more than one: the shape checker of tests breaks graphs
    net.blocks = blocks
    assert equal(values(net), plain) and counter.frame_count == for_one > 0
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.blocks[0].up.weight.zero_()
    assert not torch.allclose(values(other)[0], plain[0])


def test_true_means_block_and_other_words_are_refused():
    assert Running(compile=True).compile == "block"
    assert block_runner(Running()) is run_block
    for wrong in ({"compile": "all"}, {"recompute": "half"}):
        with pytest.raises((ValueError, TypeCheckError)):
            Running(**wrong)


# --- the whole step -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [muon, adamw])
def test_a_step_on_tensors_without_values_asks_for_none(optimizer):
    """On meta, every .item(), bool(), float() or .cpu() raises: what would wait on a GPU."""
    with torch.device("meta"):
        module = PredictorModule(
            FramePredictor(CFG),
            Quantizer(QuantizerConfig(num_codes=24, bottleneck="fsq", levels=(4, 3, 2), hidden=8)),
            loss=LossConfig(impl="chunked", z_weight=0.01, chunk_elements=100),
            tokens=90,
        )
        module.log = lambda *_, **__: None
        module._trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
        codes = torch.zeros(2, 2, 8, 8, dtype=torch.long)
    own = optimizer(module.predictor)
    loss = module.training_step({"codes": codes}, 0)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(module.predictor.parameters(), 1.0)
    own.step()
    assert loss.is_meta
    with pytest.raises(RuntimeError):
        loss.item()


def trained(parts: int, **changes) -> PredictorModule:
    model = tiny_model()
    module = PredictorModule(model.predictor, model.quantizer, adamw, warmup_steps=2, **changes)
    stage = Stage(steps=4, batch=8, scene=SCENE)
    data = SyntheticDataModule([stage], seed=0, val_batches=1, textures=4, streams=4)
    trainer = plain_trainer(4, accumulate_grad_batches=parts, limit_val_batches=0)
    trainer.fit(module, data)
    assert trainer.global_step == 4
    return module


def test_accumulated_batches_train_as_one_batch_does():
    whole, parts = trained(1), trained(4)
    for one, other in zip(whole.predictor.parameters(), parts.predictor.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5)
    assert not states_equal(whole.predictor, tiny_model().predictor)


def test_a_limit_of_tokens_shortens_the_sequence_of_both_frames():
    seen = []
    model = tiny_model()
    model.predictor.blocks[0].register_forward_hook(lambda m, x, y: seen.append(x[0].shape[1]))
    module = PredictorModule(model.predictor, model.quantizer, tokens=30)
    nats = module.nats(torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8), 0)
    placed, kept = patches_within(30, 16, 1.0, (1, 2))
    assert seen == [placed + 2 * kept] and nats.shape == (2, kept, 1) and placed < 16


@pytest.mark.parametrize("tokens", [2, 3, 7, 50, 100, 4096, 10_239])
@pytest.mark.parametrize("groups, share", [((5, 5), 1.0), ((4, 5), 0.3), ((1, 2), 0.5)])
def test_a_limit_is_kept_and_nearly_used_up(tokens, groups, share):
    if tokens < sum(groups):
        with pytest.raises(ValueError, match=r"sequence\.tokens"):
            patches_within(tokens, 1024, share, groups)
        return
    placed, kept = patches_within(tokens, 1024, share, groups)
    used = placed * groups[0] + kept * groups[1]
    assert placed >= 1 and kept >= 1 and used <= tokens
    whole = 1024 * groups[0] + round(share * 1024) * groups[1]
    assert used > min(tokens, whole) - sum(groups)
    assert patches_within(None, 1024, share, groups) == (1024, round(share * 1024))
