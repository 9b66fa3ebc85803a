"""The average follows the weights and leaves alone what never changes."""

import torch

from lras.averaging import WeightEMA
from lras.checkpoint import load
from tests.short_fits import At, fit, module
from tests.test_plain_trainer import plain_trainer


def test_the_average_follows_the_weights_and_the_quantizer_stays_to_the_bit(tmp_path):
    own, seen = module(), []
    weight = own.predictor.token_table.weight
    steps = {f"step{n}": lambda: seen.append(weight.detach().clone()) for n in range(1, 7)}
    fit(tmp_path, 6, WeightEMA(decay=0.9), At(**steps), own=own)
    expected = seen[0].clone()
    for each in seen[1:]:
        expected += (each - expected) / 10
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(kept["state_dict"]["predictor.token_table.weight"], expected)
    for name, value in module().quantizer.state_dict().items():
        assert torch.equal(kept["state_dict"][f"quantizer.{name}"], value)
    assert load(tmp_path / "last.ckpt")  # its quantizer has the fingerprint of the config


def test_the_count_of_updates_stays_on_the_cpu_and_an_update_asks_for_no_value():
    """On meta, every .item() and bool() raises: what would wait on a GPU."""
    ema, own, trainer = WeightEMA(decay=0.9), module(), plain_trainer(1)
    ema.setup(trainer, own, "fit")
    own.to("meta")
    ema.on_train_start(trainer, own)
    average = ema._average_model
    for _ in range(3):
        average.update_parameters(own)
    assert average.n_averaged.device.type == "cpu" and int(average.n_averaged) == 3
    assert all(value.is_meta for value in average.module.state_dict().values())
