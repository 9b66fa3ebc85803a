"""Scenes whose flow and visibility are exact, against a pixel-by-pixel twin and the pixels."""

import pytest
import torch
from reference.slow_scene import follow

from data.coords import pixel_centers, sample_at
from data.synthetic import SceneConfig, SceneSampler, point_pairs, roughness
from data.textures import EVALUATION_PHOTOS, TRAINING_PHOTOS, noise_textures, texture_bank

HARD = SceneConfig(
    size=24, max_motion_px=5.0, sprites=2, min_sprites=1, rotation_deg=8.0, scale=0.1, still=0.0
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampler(cfg: SceneConfig) -> SceneSampler:
    return SceneSampler(cfg, noise_textures(6, 32, seeded()))


def test_every_pixel_goes_where_the_loops_say_and_is_visible_when_they_say():
    made = sampler(HARD)
    layers = made.draw(2, seeded(3))
    scenes = made.render(layers)
    for scene in range(2):
        for row in range(0, 24, 3):
            for col in range(1, 24, 3):
                x, y = col + 0.5, row + 0.5
                front, (to_x, to_y), visible = follow(layers, scene, x, y, 24)
                u, v = scenes.flow[scene, :, row, col].tolist()
                assert scenes.layer[scene, row, col] == front
                assert (x + u, y + v) == pytest.approx((to_x, to_y), abs=1e-4)
                assert bool(scenes.visible[scene, row, col]) == visible


def test_whole_pixel_motion_repeats_pixels_exactly():
    cfg = SceneConfig(size=20, max_motion_px=8.0, snap_px=4, texels_per_px=(2.0, 4.0), still=0.0)
    scenes = sampler(cfg).sample(8, seeded(1))
    assert (scenes.flow % 4 == 0).all() and scenes.flow.abs().max() == 8
    centers = pixel_centers(20, 20).flatten(0, 1)
    for frame0, frame1, flow, visible in zip(*scenes[:4], strict=True):
        points = (centers + flow.permute(1, 2, 0).flatten(0, 1)).long()
        seen = visible.flatten()
        moved = frame1[:, points[seen, 1], points[seen, 0]]
        assert torch.equal(moved, frame0.flatten(1)[:, seen])


def test_frame_1_read_along_the_flow_looks_like_frame_0_where_visible():
    cfg = SceneConfig(size=32, max_motion_px=6.0, sprites=2, texels_per_px=(0.2, 0.4), still=0.0)
    scenes = sampler(cfg).sample(8, seeded(2))
    centers = pixel_centers(32, 32).flatten(0, 1)
    goal = centers + scenes.flow.flatten(2).transpose(1, 2)
    along = sample_at(scenes.frame1, goal)
    original = scenes.frame0.flatten(2).transpose(1, 2)
    seen = scenes.visible.flatten(1)
    error = (along - original).abs().mean(-1)
    still = (scenes.frame1 - scenes.frame0).abs().mean(1).flatten(1)
    assert error[seen].mean() < 0.25 * still[seen].mean()
    assert error[~seen].mean() > 3 * error[seen].mean()


def test_a_seed_fixes_the_scenes_and_nothing_global_is_drawn():
    before = torch.random.get_rng_state()
    first, again = (sampler(HARD).sample(2, seeded(5)) for _ in range(2))
    assert torch.equal(first.frame1, again.frame1) and torch.equal(first.flow, again.flow)
    assert torch.equal(before, torch.random.get_rng_state())
    other = sampler(HARD).sample(2, seeded(6))
    assert not torch.equal(first.frame1, other.frame1)


def test_layers_move_independently_and_their_number_is_kept():
    cfg = SceneConfig(size=24, sprites=2, min_sprites=2, still=0.0)
    layers = sampler(cfg).draw(20, seeded())
    assert (layers.radius > 0).all()
    assert len(layers.shift.flatten(0, 1).unique(dim=0)) == 60
    fewer = sampler(SceneConfig(size=24, sprites=2)).draw(40, seeded())
    assert set((fewer.radius > 0).sum(1).tolist()) == {1, 2, 3}


def test_query_points_are_visible_moving_pixel_centers_with_exact_targets():
    scenes = sampler(HARD).sample(4, seeded(8))
    pairs = point_pairs(scenes, 5, seeded(9), min_motion_px=2.0)
    for pair in range(4):
        for point, target, valid in zip(
            pairs.points[pair], pairs.target[pair], pairs.valid[pair], strict=True
        ):
            if not valid:
                continue
            col, row = (point - 0.5).long().tolist()
            assert torch.equal(point, torch.tensor([col + 0.5, row + 0.5]))
            assert torch.allclose(target - point, scenes.flow[pair, :, row, col])
            assert scenes.visible[pair, row, col] and (target - point).norm() >= 2.0


def test_a_scene_without_moving_pixels_only_pads():
    still = SceneConfig(size=16, still=1.0)
    pairs = point_pairs(sampler(still).sample(2, seeded()), 3, seeded(), min_motion_px=1.0)
    assert not pairs.valid.any()


def test_training_and_evaluation_textures_never_meet():
    train = {texture.numpy().tobytes() for texture in texture_bank("train", 0, 20, 32)}
    held_out = {texture.numpy().tobytes() for texture in texture_bank("eval", 0, 20, 32)}
    assert len(train) == len(held_out) == 20 and not train & held_out
    photos = [
        {f"{package}/{name}" for package, names in split.items() for name in names}
        for split in (TRAINING_PHOTOS, EVALUATION_PHOTOS)
    ]
    assert all(photos) and not photos[0] & photos[1]
    # Half of a Middlebury stereo pair that flow evaluations use must never be a texture.
    assert not any("motorcycle" in name for name in photos[0] | photos[1])


def test_roughness_ranks_white_noise_above_a_smooth_ramp():
    ramp = torch.linspace(0, 1, 32).expand(3, 32, 32)
    noise = torch.rand(3, 32, 32, generator=seeded())
    scores = roughness(torch.stack([ramp, noise]))
    assert scores[1] > 100 * scores[0]
    rough_only = SceneSampler(SceneConfig(roughest=0.5), torch.stack([ramp, noise]))
    assert torch.equal(rough_only.textures[0], noise) and len(rough_only.textures) == 1


@pytest.mark.parametrize(
    "wrong", [{"sprites": 1, "min_sprites": 2}, {"snap_px": 4, "rotation_deg": 3.0}]
)
def test_a_config_that_contradicts_itself_is_refused(wrong):
    with pytest.raises(ValueError, match=r"min_sprites|snap_px"):
        SceneConfig(**wrong)
