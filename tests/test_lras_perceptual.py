"""LPIPS around a network with random weights: what it says, and what is said where it is not."""

from urllib.error import URLError

import pytest
import torch
import torchvision

from data.curriculum import Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from lras.config import QuantizerConfig
from lras.held_out import QuantizerQuality
from lras.perceptual import MIN_PX, PerceptualDistance
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule
from tests.test_plain_trainer import plain_trainer


@pytest.fixture
def random_weights(monkeypatch):
    """AlexNet as it is made, nothing fetched; what stands before it notes what it is handed."""
    make, seen = torchvision.models.alexnet, []

    def alexnet(weights=None):
        torch.manual_seed(0)
        return make(weights=None)

    monkeypatch.setattr(torchvision.models, "alexnet", alexnet)
    made = PerceptualDistance()
    made.distance.net.scaling_layer.register_forward_hook(lambda m, given, out: seen.append(given))
    return made, seen


def frames(batch: int, seed: int = 0, size: int = 40) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_equal_pictures_are_at_no_distance_and_others_are_at_some(random_weights):
    metric, _ = random_weights
    metric.update(frames(3), frames(3))
    assert metric.compute() == 0
    metric.update(frames(3), frames(3, seed=1))
    assert metric.compute() > 0
    metric.reset()
    metric.update(frames(3), frames(3))
    assert metric.compute() == 0


def test_the_network_is_shown_frames_from_minus_one_to_one(random_weights):
    metric, seen = random_weights
    metric.update(frames(2), frames(2, seed=1))
    (first,), (second,) = seen
    shown = torch.stack([first, second])
    expected = 2 * torch.stack([frames(2, seed=1), frames(2)]) - 1
    assert torch.allclose(shown.sort(0).values, expected.sort(0).values)


def test_it_is_the_mean_over_frames_however_they_are_cut_into_batches(random_weights):
    metric, _ = random_weights
    each = []
    for one, other in zip(frames(5), frames(5, seed=1), strict=True):
        metric.update(one[None], other[None])
        each.append(metric.compute())
        metric.reset()
    for part in (slice(0, 4), slice(4, 5)):
        metric.update(frames(5)[part], frames(5, seed=1)[part])
    assert metric.compute() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    assert len(set(map(float, each))) == 5


def test_the_smallest_frame_is_the_smallest_that_the_network_takes(random_weights):
    metric, _ = random_weights
    metric.update(frames(1, size=MIN_PX), frames(1, 1, MIN_PX))
    assert metric.compute() > 0
    less = MIN_PX - 1
    with pytest.raises(ValueError, match=f"at least {MIN_PX} px, got {less}x{less} px"):
        metric.update(frames(1, size=less), frames(1, 1, less))
    with pytest.raises(RuntimeError):  # by itself it would fail in other words
        metric.distance(frames(1, size=less), frames(1, 1, less))


def test_where_the_weights_cannot_be_had_one_sentence_says_how_to_get_them(monkeypatch):
    def alexnet(weights=None):
        raise URLError("no network")

    monkeypatch.setattr(torchvision.models, "alexnet", alexnet)
    with pytest.raises(ValueError, match=r"no network.*put https://.*alexnet.*quantizer_lpips"):
        QuantizerQuality(8, lpips=True)
    assert QuantizerQuality(8).lpips is None


def fit(size: int) -> dict[str, float]:
    quantizer = Quantizer(QuantizerConfig(num_codes=16))
    stages = [Stage(steps=2, batch=2, scene=SceneConfig(size=s)) for s in (16, size)]
    trainer = plain_trainer(2, val_check_interval=2)
    data = SyntheticDataModule(stages, val_batches=1, textures=4)
    trainer.fit(QuantizerModule(quantizer, lpips=True), data.mixed())
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_validation_says_it_and_small_frames_are_refused_before_training(
    random_weights, monkeypatch
):
    assert fit(32)["quantizer/val_lpips"] > 0

    def step(self, batch, batch_index):
        raise AssertionError("trained")

    monkeypatch.setattr(QuantizerModule, "training_step", step)
    with pytest.raises(ValueError, match="at least 31 px, got 20x20 px"):
        fit(20)
