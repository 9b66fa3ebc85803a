"""What validation says: every held-out sample once, however batches and ranks are cut."""

import lightning as L
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from reference.slow_code_baselines import copy_nats_by_hand, unigram_nats_by_hand
from torch.utils.data import DataLoader
from torchmetrics.functional.image import structural_similarity_index_measure

from lras.config import PredictorConfig, QuantizerConfig
from lras.held_out import MAX_GAP, HeldOut, NatsPerCode, QuantizerQuality, held_out_orders
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule

SAMPLES, SIZE = 20, 16


def samples() -> list[dict]:
    """Pairs of which the second is the first, moved by some pixels and changed here and there."""
    generator = torch.Generator().manual_seed(0)
    frame0 = torch.randint(0, 256, (SAMPLES, 3, SIZE, SIZE), generator=generator)
    noise = 250 * (torch.rand(frame0.shape, generator=generator) < 0.01)
    shade = torch.rand(SAMPLES, 1, 1, 1, generator=generator)
    frame1 = (frame0.roll(4, -1) * shade + noise) % 256
    frames = torch.stack([frame0, frame1.long()], 1).to(torch.uint8)
    return [{"frames": f, "gap": 1 + i % 3, "key": f"clip{i}"} for i, f in enumerate(frames)]


def batches(count: int, size: int, **more: list) -> list[dict]:
    first = enumerate(samples()[:count])
    kept = [one | {name: values[i] for name, values in more.items()} for i, one in first]
    return list(DataLoader(kept, batch_size=size))


def module(patch_px: int = 8) -> PredictorModule:
    torch.manual_seed(0)
    quantizer = Quantizer(QuantizerConfig(num_codes=16))
    cells = quantizer.to_cells(torch.stack([one["frames"][0] / 255 for one in samples()]))
    quantizer.bottleneck.initialize(cells.flatten(0, 2), torch.Generator().manual_seed(0))
    cfg = PredictorConfig(
        image_size=16, patch_px=patch_px, num_codes=16, dim=16, num_heads=2, num_layers=1
    )
    predictor = FramePredictor(cfg)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return PredictorModule(predictor, quantizer)


def validated(made: L.LightningModule, data: list[dict]) -> dict[str, float]:
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    (values,) = trainer.validate(made, DataLoader(data, batch_size=None), verbose=False)
    return values


def test_nats_are_means_over_codes_as_loops_would_add_them_up():
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4, 4), (2, 16, 4), (5, 9, 4)]  # batches of different sizes and grids
    metric, every = NatsPerCode(codes_per_patch=4), {}
    for shape in shapes:
        nats = torch.rand(shape, generator=generator)
        gaps = torch.randint(1, 4, shape[:1], generator=generator)
        metric.update(nats, gaps)
        for sample, gap in zip(nats.tolist(), gaps.tolist(), strict=True):
            for position, patch in enumerate(sample):
                share = position / len(sample)
                low, high = next(
                    pair
                    for pair in ((0, 10), (10, 25), (25, 50), (50, 75), (75, 100))
                    if pair[0] <= 100 * share < pair[1]
                )
                names = ["nats_per_code", f"nats_gap_{gap}", f"nats_revealed_{low:02d}_{high}"]
                names += ["nats_per_code_first_quarter"] if share < 0.25 else []
                names += ["nats_per_code_last_quarter"] if share >= 0.75 else []
                for slot, value in enumerate(patch):
                    for name in [*names, f"nats_slot_{slot}"]:
                        every.setdefault(name, []).append(value)
    expected = {name: pytest.approx(sum(v) / len(v), abs=1e-7) for name, v in every.items()}
    assert metric.compute() == expected
    metric.reset()
    assert metric.compute() == {}


def test_one_code_a_patch_has_no_slots_and_very_long_gaps_share_a_bin():
    metric = NatsPerCode(codes_per_patch=1)
    metric.update(torch.ones(2, 4, 1), torch.tensor([MAX_GAP, 1000]))
    values = metric.compute()
    assert {name for name in values if "gap" in name} == {f"nats_gap_{MAX_GAP}"}
    assert not [name for name in values if "slot" in name]


def test_validation_is_the_same_however_the_samples_are_cut_into_batches():
    made = module()
    first, second = validated(made, batches(10, 4)), validated(made, batches(10, 5))
    assert first.keys() == second.keys()
    assert {key for key in first if "gap" not in key} == {
        "val/nats_per_code",
        "val/nats_per_code_first_quarter",
        "val/nats_per_code_last_quarter",
        "val/nats_revealed_00_10",
        "val/nats_revealed_25_50",  # four patches: nothing between 10 and 25 percent
        "val/nats_revealed_50_75",
        "val/nats_revealed_75_100",
        *(f"val/nats_slot_{slot}" for slot in range(4)),
        "val/nats_unigram",
        "val/nats_copy",
        "val/quantizer_psnr_db",
        "val/quantizer_ssim",
        "val/codes_used",
        "val/code_perplexity",
        "val/bit_balance",
    }
    assert first == pytest.approx(second, abs=1e-5)
    assert validated(made, batches(10, 4)) == first  # the same orders every time


def test_samples_of_weight_zero_only_fill_up_a_batch():
    made = module()
    padded = batches(8, 4, weight=[1, 1, 1, 1, 1, 1, 0, 0])
    assert validated(made, padded) == pytest.approx(validated(made, batches(6, 6)), abs=1e-5)
    assert validated(made, padded) != pytest.approx(validated(made, batches(8, 4)), abs=1e-5)


def test_validation_says_what_every_sample_says_on_its_own():
    made, nats, before, after = module(), {}, [], []
    for one in batches(5, 1):
        grid, codes0, codes1 = made.codes(one["frames"])
        order0, order1 = held_out_orders(one["key"], grid.num_patches, made.seed)
        mean = made.predictor(codes0, codes1, order0, order1, grid).mean().item()
        nats.setdefault(int(one["gap"]), []).append(mean)
        before += codes0.flatten().tolist()
        after += codes1.flatten().tolist()
    values = validated(made, batches(5, 2))
    every = [mean for means in nats.values() for mean in means]
    assert values["val/nats_per_code"] == pytest.approx(sum(every) / 5, abs=1e-5)
    for gap, means in nats.items():
        assert values[f"val/nats_gap_{gap}"] == pytest.approx(sum(means) / len(means), abs=1e-5)
    by_hand = unigram_nats_by_hand(before, after, 16)
    assert values["val/nats_unigram"] == pytest.approx(by_hand, abs=1e-5)
    assert values["val/nats_copy"] == pytest.approx(copy_nats_by_hand(before, after, 16), abs=1e-3)
    used = len(set(before + after)) / 16
    assert values["val/codes_used"] == pytest.approx(used)


def test_orders_depend_on_key_and_seed_alone():
    order0, order1 = held_out_orders(["a", "b", "a"], 20, seed=0)
    assert torch.equal(order0[0], order0[2]) and torch.equal(order1[0], order1[2])
    assert not torch.equal(order0[0], order0[1]) and not torch.equal(order0[0], order1[0])
    again, _ = held_out_orders(["a"], 20, seed=1)
    assert not torch.equal(order0[0], again[0])
    assert torch.equal(order0.sort(1).values, torch.arange(20).expand(3, 20))


def test_quality_of_a_quantizer_is_that_of_all_pixels_and_codes():
    generator = torch.Generator().manual_seed(0)
    metric, squares, seen, similar = QuantizerQuality(num_codes=8), [], [], []
    for batch in (1, 3):
        frames, noise = torch.rand(2, batch, 3, 8, 8, generator=generator)
        decoded = frames + 0.1 * batch * (noise - 0.5)
        codes = torch.randint(0, 2 * batch, (batch, 2, 2), generator=generator)
        metric.update(frames, decoded, codes)
        squares += (decoded - frames).square().flatten().tolist()
        seen += codes.flatten().tolist()
        similar += [
            structural_similarity_index_measure(one[None], other[None], data_range=1.0).item()
            for one, other in zip(decoded, frames, strict=True)
        ]
    rarer = [sum(code >> bit & 1 for code in seen) / len(seen) for bit in range(3)]
    shares = torch.tensor([seen.count(code) / len(seen) for code in set(seen)])
    assert metric.compute() == {
        "psnr_db": pytest.approx(-10 * torch.tensor(squares).mean().log10().item(), abs=1e-4),
        "ssim": pytest.approx(sum(similar) / 4, abs=1e-5),
        "bit_balance": pytest.approx(2 * min(min(p, 1 - p) for p in rarer)),
        "codes_used": len(set(seen)) / 8,
        "code_perplexity": pytest.approx((-shares * shares.log()).sum().exp().item(), rel=1e-5),
    }


def test_a_quantizer_on_its_own_is_validated_the_same_way():
    made = module()
    alone = validated(QuantizerModule(made.quantizer), batches(10, 4))
    inside = validated(made, batches(10, 3))
    names = {"psnr_db": "quantizer_psnr_db", "codes_used": "codes_used"}
    names |= {"code_perplexity": "code_perplexity", "bit_balance": "bit_balance"}
    names |= {"ssim": "quantizer_ssim"}
    assert alone == {
        f"quantizer/val_{own}": pytest.approx(inside[f"val/{other}"], abs=1e-5)
        for own, other in names.items()
    }


def fill(metric: HeldOut, parts: list[int]) -> dict[str, float]:
    """Update with the numbered parts of one made-up validation set."""
    for part in parts:
        generator = torch.Generator().manual_seed(part)
        batch = 1 + part
        codes = torch.randint(0, 9, (2, batch, 4, 4), generator=generator)
        frames, decoded = torch.rand(2, batch, 3, 16, 16, generator=generator)
        gap = torch.randint(1, 5, (batch,), generator=generator)
        metric.update(torch.rand(batch, 4, 4, generator=generator), gap, *codes)
        metric.quantizer.update(frames, decoded, codes[0])
    return metric.compute()


def on_one_of_two_ranks(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    values = fill(HeldOut(9, 4), [[0, 1, 2], [3]][rank])  # uneven: nobody waits for a batch
    torch.save(values, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_with_uneven_batches_say_what_one_would_say(tmp_path):
    mp.spawn(on_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    alone = fill(HeldOut(9, 4), [0, 1, 2, 3])
    for rank in range(2):
        assert torch.load(tmp_path / f"rank{rank}.pt") == pytest.approx(alone, abs=1e-9)
