"""The official preset is the published network: sequences, hidden states, logits and loss agree.

The arrays were computed by the authors' inference classes on a tiny random instance.
"""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lras.config import PredictorConfig
from lras.predictor import FramePredictor
from lras.sequence import two_frames
from lras.vocab import Vocab

pytestmark = [pytest.mark.shared, pytest.mark.slow]


def table(table_id: int, rows: int, cols: int, scale: float) -> torch.Tensor:
    """The big tables are a formula (splitmix64 of the flat index), not a file."""
    with np.errstate(over="ignore"):
        index = np.arange(rows * cols, dtype=np.uint64) + np.uint64((table_id << 40) + 1)
        z = index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    values = (2.0 * (z >> np.uint64(40)) / 2.0**24 - 1) * scale
    return torch.from_numpy(values.astype(np.float32)).view(rows, cols)


@pytest.fixture(scope="module")
def golden(shared_root):
    return shared_root / "golden"


@pytest.fixture(scope="module")
def net(golden) -> FramePredictor:
    published = json.loads((golden / "config.json").read_text())["predictor"]
    layers, dim, heads = (published[k] for k in ("n_layer", "n_embd", "n_head"))
    made = FramePredictor(
        PredictorConfig.official(
            image_size=256, patch_px=8, code_px=4, num_codes=65_536,
            num_layers=layers, dim=dim, num_heads=heads,
        )
    )  # fmt: skip
    weights = load_file(golden / "predictor_small.safetensors")
    ours = {
        "token_table.weight": table(1, published["vocab_size"], dim, 1.0),
        "place_table.weight": table(2, published["block_size"], dim, 1.0),
        "head.weight": table(3, published["vocab_size"], dim, 0.25),
        "final_norm.weight": weights["transformer.ln_f.weight"],
    }
    for i in range(layers):
        theirs, block = f"transformer.h.{i}", f"blocks.{i}"
        query, key, value = weights[f"{theirs}.attn.c_attn.weight"].chunk(3)
        ours |= {
            f"{block}.attention.query.weight": query,
            f"{block}.attention.key.weight": key,
            f"{block}.attention.value.weight": value,
            f"{block}.attention.out.weight": weights[f"{theirs}.attn.c_proj.weight"],
            f"{block}.attention_norm.weight": weights[f"{theirs}.ln_1.weight"],
            f"{block}.mlp_norm.weight": weights[f"{theirs}.ln_2.weight"],
            f"{block}.up.weight": weights[f"{theirs}.mlp.c_fc.weight"],
            f"{block}.down.weight": weights[f"{theirs}.mlp.c_proj.weight"],
        }
    made.load_state_dict(ours)
    return made.eval()


@pytest.fixture(scope="module")
def packed(golden, net):
    """Their codes and orders, our sequence."""
    codes = np.load(golden / "quantizer_io.npz")
    orders = np.load(golden / "sequence.npz")
    grid = net.cfg.grid
    codes0, codes1 = (
        grid.to_patches(torch.from_numpy(codes[f"codes_frame{f}"])[None]) for f in (0, 1)
    )
    order0, order1 = (torch.from_numpy(orders[f"order{f}"]).long()[None] for f in (0, 1))
    return codes0, codes1, order0, order1, orders


def test_a_packed_sequence_has_their_tokens_and_positions(packed):
    codes0, codes1, order0, order1, orders = packed
    seq = two_frames(codes0, codes1, order0, order1, Vocab(65_536, 1024), frame0_pointers=True)
    assert np.array_equal(seq.tokens[0].numpy(), orders["seq"])
    position = (seq.frame * 1024 + seq.patch) * 5 + seq.slot
    assert np.array_equal(position[0].numpy(), orders["pos"])


@torch.no_grad()
def test_hidden_states_logits_and_loss_are_theirs(golden, net, packed):
    codes0, codes1, order0, order1, _ = packed
    expected = np.load(golden / "causal.npz")
    seq = two_frames(codes0, codes1, order0, order1, Vocab(65_536, 1024), frame0_pointers=True)
    hidden, _ = net.encode(seq, net.cfg.grid)
    chosen = hidden[0, expected["sel"]]
    assert np.allclose(chosen, expected["hidden_sel"], atol=1e-4)
    logits = chosen @ net.head.weight.T
    assert np.allclose(logits[:, expected["cols"]], expected["logits_sel_cols"], atol=1e-4)
    nats = net(codes0, codes1, order0, order1, net.cfg.grid)
    assert np.allclose(nats.flatten(), expected["nll_frame1_content"], atol=1e-4)
    assert float(nats.double().mean()) == pytest.approx(float(expected["loss"]), abs=1e-5)
    unrevealed = nats[0, 102:].double().mean()
    assert float(unrevealed) == pytest.approx(float(expected["loss_unrevealed_only"]), abs=1e-5)


def test_the_tables_are_rebuilt_exactly():
    assert table(1, 1, 3, 1.0)[0].tolist() == pytest.approx(
        [-0.8030064, -0.9092069, -0.5033770], abs=1e-7
    )
