"""Residual codes: local to their patch, coarse to fine, and codes like any other to all doors."""

import csv
from itertools import pairwise

import lightning as L
import pytest
import torch
from einops import rearrange
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch.utils.data import DataLoader

from lras.checkpoint import load, load_quantizer, save
from lras.config import PredictorConfig, QuantizerConfig
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule
from lras.residual_codes import ResidualCodes
from tests.reference.slow_residual import slow_encode, slow_paint, slow_patches
from tests.test_doors_dry_run import composed
from tests.test_smoke import command
from tests.tiny_model import states_equal
from tracing.config import TracerConfig
from tracing.perturbation import add_tracer, touched_cells
from tracing.planting import plant
from tracing.trace import trace_points
from tracing.tracers import kl_tracer

PLAIN = QuantizerConfig(bottleneck="residual", num_codes=64, painted_px=8)
DEEP = QuantizerConfig(bottleneck="residual", num_codes=64, painted_px=8, hidden=24)
GRID = PatchGrid(32, 24, 8, 4)


def smooth_frames(batch: int, seed: int = 0, height: int = 32, width: int = 24) -> torch.Tensor:
    """Coarse colors under finer ones, as in pictures."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.zeros(batch, 3, height, width)
    for cells, size in ((8, 0.5), (4, 0.3), (2, 0.1), (1, 0.1)):
        part = torch.rand(batch, 3, height // cells, width // cells, generator=generator)
        frames += size * part.repeat_interleave(cells, 2).repeat_interleave(cells, 3)
    return frames


def quantizer(cfg: QuantizerConfig) -> Quantizer:
    torch.manual_seed(0)
    made = Quantizer(cfg)
    if cfg.hidden:  # fresh MLPs hardly speak
        with torch.no_grad():
            made.encoder[-1].weight *= 100
    made.initialize(smooth_frames(40), torch.Generator().manual_seed(0))
    return made


def next_frame(cfg: QuantizerConfig = PLAIN) -> NextFrame:
    own = quantizer(cfg)
    sizes = {"image_size": 32, "patch_px": 8, "painted_px": 8, "num_codes": 64}
    sizes |= {"dim": 32, "num_heads": 2, "num_layers": 2}
    predictor = FramePredictor(PredictorConfig(**sizes))
    for parameter in predictor.parameters():  # blocks start at zero: let them speak
        torch.nn.init.normal_(parameter, std=0.2)
    predictor.set_code_pixels(own.code_pixels())
    return NextFrame(own, predictor).eval()


# --- the codes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cfg", [PLAIN, DEEP], ids=["plain", "mlp"])
def test_codes_are_those_of_loops_over_patches_and_levels(cfg):
    made, frames = quantizer(cfg), smooth_frames(3, seed=1)
    books = [level.codebook.detach() for level in made.bottleneck.levels]
    latents = made.encoder(made.to_cells(frames)).flatten(0, 2).detach()
    codes = GRID.to_patches(made.encode(frames)).flatten(0, 1)
    assert codes.tolist() == slow_encode(latents, books)
    if cfg is PLAIN:
        patches = [rearrange(p, "c i j -> (c i j)") - 0.5 for p in slow_patches(frames[2], 8)]
        assert codes[24:].tolist() == slow_encode(torch.stack(patches), books)
        painted = slow_patches(made.decode(made.encode(frames))[2], 8)
        for patch, own in zip(painted, codes[24:].tolist(), strict=True):
            assert torch.allclose(patch, slow_paint(own, books, 8), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    row=st.integers(0, 3), col=st.integers(0, 2), y=st.integers(0, 7), x=st.integers(0, 7),
    value=st.floats(0, 1), deep=st.booleans(),
)  # fmt: skip
def test_a_changed_pixel_changes_codes_of_its_own_patch_and_no_other(row, col, y, x, value, deep):
    made, frames = MADE[deep], smooth_frames(2, seed=2)
    before = made.encode(frames)
    frames[1, :, 8 * row + y, 8 * col + x] = value
    changed = GRID.to_patches(made.encode(frames) != before).any(-1).nonzero().tolist()
    assert changed in ([], [[1, 3 * row + col]])
    altered = before.clone()
    altered[1, 2 * row + y // 4, 2 * col + x // 4] = 63
    moved = (made.decode(altered) != made.decode(before)).any(1).nonzero()
    assert {(n, int(r) // 8, int(c) // 8) for n, r, c in moved.tolist()} <= {(1, row, col)}


MADE = {False: quantizer(PLAIN), True: quantizer(DEEP)}


@pytest.mark.parametrize("cfg", [PLAIN, DEEP], ids=["plain", "mlp"])
def test_each_cell_of_a_patch_has_a_say_in_its_coarse_code(cfg):
    made, frames = MADE[bool(cfg.hidden)], smooth_frames(4, seed=3)
    before = GRID.to_patches(made.encode(frames))[..., 0]
    for y, x in ((0, 0), (0, 4), (4, 0), (4, 4)):
        other = rearrange(frames.clone(), "b c (r i) (s j) -> b r s c i j", i=8, j=8)
        other[..., y : y + 4, x : x + 4] = 1 - other[..., y : y + 4, x : x + 4].round()
        other = rearrange(other, "b r s c i j -> b c (r i) (s j)")
        assert (GRID.to_patches(made.encode(other))[..., 0] != before).any()


@pytest.mark.parametrize("cfg", [PLAIN, DEEP], ids=["plain", "mlp"])
def test_more_codes_paint_a_closer_picture(cfg):
    made, frames = quantizer(cfg), smooth_frames(60, seed=4)
    if cfg.hidden:
        trained(made, frames, steps=150)
    codes = made.encode(frames)
    errors = [(made.decode_first(codes, k) - frames).square().mean().item() for k in range(1, 5)]
    assert all(later < 0.995 * earlier for earlier, later in pairwise(errors))
    assert torch.equal(made.decode_first(codes, 4), made.decode(codes))


def trained(made: Quantizer, frames: torch.Tensor, steps: int) -> list[tuple[float, float]]:
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    values = []
    for _ in range(steps):
        error, penalty, _ = made(frames)
        optimizer.zero_grad()
        (error + 0.25 * penalty).backward()
        optimizer.step()
        values.append((error.item(), penalty.item()))
    return values


@pytest.mark.parametrize("cfg", [PLAIN, DEEP], ids=["plain", "mlp"])
def test_training_lowers_the_error_of_all_codes_and_of_the_first_ones(cfg):
    made, frames = quantizer(cfg), smooth_frames(20, seed=5)
    with torch.no_grad():
        for level in made.bottleneck.levels:  # away from Lloyd's minimum
            noise = torch.randn(level.codebook.shape, generator=torch.Generator().manual_seed(1))
            level.codebook += 0.3 * level.codebook.std() * noise
    (error, penalty), *_, (last_error, last_penalty) = trained(made, frames, 80)
    assert last_error < 0.95 * error and last_penalty < 0.95 * penalty


def test_the_encoder_is_told_of_every_levels_error():
    made, frames = quantizer(DEEP), smooth_frames(2)
    cells = made.to_cells(frames)
    latent = made.encoder(cells).flatten(0, 2)
    partial, codes, _ = made.bottleneck(latent)
    assert torch.equal(codes, made.bottleneck.quantize(latent))
    for k in range(4):
        assert torch.allclose(partial[k], made.bottleneck.embed(codes[:, : k + 1]), atol=1e-4)
        (gradient,) = torch.autograd.grad(partial[k].sum(), latent, retain_graph=True)
        assert torch.equal(gradient, torch.ones_like(latent))  # straight through
    _, penalty, _ = made(frames)
    commitment = made.bottleneck(latent)[2]
    errors = [(made.decoder(p) - cells.flatten(0, 2)).square().mean() for p in partial[:3]]
    assert torch.allclose(penalty, commitment + sum(errors) / 3)


def test_ids_of_a_level_are_its_own_and_one_table_tells_what_each_adds():
    made = quantizer(PLAIN)
    levels = GRID.to_patches(made.encode(smooth_frames(8))) // 16
    assert torch.equal(levels, torch.arange(4).expand_as(levels))
    pixels = made.code_pixels()
    assert pixels.shape == (64, 192)
    codes = made.encode(smooth_frames(2, seed=6))
    sums = pixels[GRID.to_patches(codes)].sum(-2)
    assert torch.allclose(made.to_frames(sums.view(2, 4, 3, 192)), made.decode(codes), atol=1e-5)


@pytest.mark.parametrize("cfg", [PLAIN, DEEP], ids=["plain", "mlp"])
def test_the_expected_frame_of_certain_codes_is_what_they_paint(cfg):
    made = quantizer(cfg)
    codes = made.encode(smooth_frames(2))
    certain = torch.nn.functional.one_hot(codes, 64).float()
    assert torch.allclose(made.expected_frames(certain), made.decode(codes), atol=1e-5)


def test_without_mlps_the_expected_frame_is_the_mean_of_the_frames():
    made = quantizer(PLAIN)
    with torch.no_grad():
        for level in made.bottleneck.levels:
            level.codebook *= 0.2  # so that nothing is clamped
    one, other = made.encode(smooth_frames(2, seed=7)).split(1)
    even = sum(torch.nn.functional.one_hot(codes, 64).float() for codes in (one, other)) / 2
    mean = (made.decode(one) + made.decode(other)) / 2
    assert torch.allclose(made.expected_frames(even), mean, atol=1e-5)


# --- every door --------------------------------------------------------------------------------


def test_the_fingerprint_follows_every_level_and_older_quantizers_keep_theirs():
    made = quantizer(PLAIN)
    before = made.fingerprint()
    with torch.no_grad():
        made.bottleneck.levels[3].codebook[0, 0] += 1
    assert made.fingerprint() != before
    assert "painted_px" not in repr(QuantizerConfig())  # the fingerprint begins with it


def test_a_model_is_saved_loaded_and_pushed_like_any_other(tmp_path):
    model = next_frame(DEEP)
    save(model, tmp_path / "export")
    again = load(tmp_path / "export")
    assert states_equal(again, model) and again.painted_px == 8
    assert load_quantizer(tmp_path / "export").cfg == DEEP
    model.quantizer.save_pretrained(tmp_path / "hub")
    same = Quantizer.from_pretrained(tmp_path / "hub")
    frames = smooth_frames(2, seed=8)
    assert torch.equal(same.encode(frames), model.quantizer.encode(frames))


@pytest.mark.parametrize(
    "wrong, fix",
    [
        ({"bottleneck": "residual"}, "try painted_px=8"),
        ({"bottleneck": "residual", "painted_px": 4}, "try painted_px=8"),
        ({"bottleneck": "residual", "painted_px": 10}, "try painted_px=8"),
        ({"bottleneck": "residual", "painted_px": 8, "num_codes": 30}, "try num_codes=32"),
        ({"bottleneck": "kmeans", "painted_px": 8}, "leave it out"),
    ],
)
def test_an_impossible_config_says_what_to_type(wrong, fix):
    with pytest.raises(ValueError, match=fix):
        QuantizerConfig(**wrong)


def test_a_predictor_of_other_codes_is_refused():
    model, sizes = next_frame(), {"image_size": 32, "patch_px": 8, "num_codes": 64}
    with pytest.raises(ValueError, match=r"paint 8 px .* painted_px=None"):
        NextFrame(model.quantizer, FramePredictor(PredictorConfig(**sizes)))
    with pytest.raises(ValueError, match="painted_px=4 is not patch_px=8"):
        PredictorConfig(**sizes, painted_px=4)


def test_the_named_size_is_one_model():
    cfg = composed("experiment=lras_micro", "model=lras_micro_residual")
    with torch.device("meta"):
        parts = [instantiate(cfg.model[p], _convert_="object") for p in ("quantizer", "predictor")]
    model = NextFrame(*parts)
    assert model.quantizer.num_levels == model.predictor.cfg.codes_per_patch == 4
    assert model.quantizer.code_pixels().shape == model.predictor.code_pixels.shape == (4096, 192)


# --- tracing -----------------------------------------------------------------------------------


def test_a_bump_in_one_cell_of_a_patch_changes_codes_that_lie_on_its_other_cells():
    """Codes lie on cells, but see the patch: what a bump does to them must not be cut off."""
    model, frame0 = next_frame(), smooth_frames(1, height=32, width=32)
    codes0, grid = model.encode(frame0), PatchGrid(32, 32, 8, 4)
    points = grid.patch_centers()[None] + 2  # amid the last cell of each patch
    cfg = TracerConfig(placement="query", sigma_px=0.35, retry=False)
    with_bump = add_tracer(frame0.expand(16, -1, -1, -1), points[0], 0.35, 1.0)
    cells = touched_cells(frame0.expand(16, -1, -1, -1), with_bump, grid)
    assert (cells.sum((1, 2)) == 1).all()
    planted = plant(model, frame0, codes0, points, cfg)
    assert torch.equal(planted.codes[0], model.encode(with_bump))
    changed = grid.to_patches(planted.codes[0]) != grid.to_patches(codes0)
    assert changed[range(16), range(16), :3].any()  # on the patch's other cells
    changed[range(16), range(16)] = False
    assert not changed.any()


def test_the_engine_traces_residual_codes_as_the_slow_algorithm_does():
    model = next_frame()
    frame0, frame1 = smooth_frames(2, seed=9, height=32, width=32).split(1)
    cfg = TracerConfig(num_masks=2)
    points = torch.tensor([[10.0, 20.0], [27.0, 5.0]])
    slow = trace_points(model, frame0[0], frame1[0], points, cfg)
    fast = kl_tracer(model, cfg)(frame0, frame1, points[None])
    assert torch.allclose(fast.xy, slow.xy, atol=1e-3) and (fast.peak_kl > 0).all()
    assert torch.allclose(fast.peak_kl, slow.peak_kl, rtol=1e-3)
    assert torch.equal(fast.flipped_codes, slow.flipped_codes)


def test_a_map_of_cells_is_refused():
    with pytest.raises((ValueError, TypeCheckError), match="use placement=patch"):
        kl_tracer(next_frame(), TracerConfig(placement="query"))


# --- what is said of it ------------------------------------------------------------------------


def test_validation_tells_use_and_psnr_of_every_level():
    made = quantizer(PLAIN)
    frames = (255 * smooth_frames(6, seed=10)).round().to(torch.uint8)[:, None]
    batches = [{"frames": part} for part in frames.split(4)]
    trainer = L.Trainer(
        accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    loader = DataLoader(batches, batch_size=None)
    (values,) = trainer.validate(QuantizerModule(made), loader, verbose=False)
    truth = frames[:, 0] / 255
    codes = made.encode(truth)
    for count in range(1, 5):
        error = (made.decode_first(codes, count) - truth).double().square().mean()
        name = "psnr_db" if count == 4 else f"psnr_db_first_{count}"
        assert values[f"quantizer/val_{name}"] == pytest.approx(
            -10 * error.log10().item(), abs=1e-4
        )
    by_patch = GRID.to_patches(codes)
    for level in range(4):
        seen = by_patch[..., level].flatten() - 16 * level
        shares = torch.bincount(seen, minlength=16) / len(seen)
        name = f"quantizer/val_{{}}_level_{level}"
        assert values[name.format("codes_used")] == pytest.approx(
            (shares > 0).double().mean().item()
        )
        perplexity = torch.special.entr(shares.double()).sum().exp().item()
        assert values[name.format("code_perplexity")] == pytest.approx(perplexity, rel=1e-5)
        rarer = [(seen >> bit & 1).double().mean().item() for bit in range(4)]
        worst = 2 * min(min(share, 1 - share) for share in rarer)
        assert values[name.format("bit_balance")] == pytest.approx(worst, abs=1e-6)


def test_a_bottleneck_starts_once_all_of_its_levels_have():
    made = ResidualCodes(8, 4, 3)
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert not made.initialized
    made.levels[0].initialize(latents, torch.Generator())
    assert not made.initialized
    made.initialize(latents, torch.Generator())
    assert made.initialized


@pytest.mark.slow
def test_a_training_from_end_to_end_and_an_evaluation_of_it(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    words = ("quantizer.cfg.bottleneck=residual", "+quantizer.cfg.painted_px=8")
    words += ("predictor.cfg.patch_px=8", "+predictor.cfg.painted_px=8")
    words += ("predictor.cfg.image_size=32",)
    words = tuple(w.replace("+", "+model.") if "+" in w else f"model.{w}" for w in words)
    scenes = [f"data.stages.{n}.scene.{k}" for n in (0, 1) for k in ("size=32", "snap_px=8")]
    scenes += ["data.stages.0.scene.max_motion_px=8", "data.stages.1.scene.max_motion_px=8"]
    done = command(
        "train.py", "experiment=smoke", *words, *scenes, "probe_scene.size=32",
        f"hydra.run.dir={run}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert isinstance(load(run).quantizer.bottleneck, ResidualCodes)
    (row, *_) = csv.DictReader((run / "metrics.csv").open())
    assert "train/nats_slot_3" in row
    assert "quantizer/val_psnr_db_first_1" in done.stdout
    words = (f"ckpt={run}", "task=synthetic", "scene.size=32", "scene.max_motion_px=8")
    done = command("eval.py", *words, "num_pairs=4", f"hydra.run.dir={out}")
    assert done.returncode == 0, done.stderr
    assert (out / "results.json").is_file()
