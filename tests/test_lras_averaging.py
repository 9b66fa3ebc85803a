"""The average follows the weights and leaves alone what never changes."""

import torch

from lras.averaging import WeightEMA
from lras.checkpoint import load
from tests.short_fits import At, fit, module


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
