"""A golden folder of any size, from a network written down once more in its plainest form.

The published class is followed from its published names on: no cache, explicit masks, loops. What
needs no model (sampling, poses, flow) and the quantizer's answers are not part of it.
"""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from lras.grid import PatchGrid
from lras.official.golden import formula_table
from tests.reference.four_forwards import four_forwards, pack, token_by_token

# ruff: noqa: NPY002  the published code draws from the global stream


@dataclass(frozen=True, kw_only=True)
class GoldenSet:
    """Sizes of a set; codes are random."""

    layers: int = 1
    heads: int = 2
    dim: int = 16
    num_codes: int = 64
    image_size: int = 32
    seed: int = 5
    hidden_share: float = 0.7

    @property
    def grid(self) -> PatchGrid:
        return PatchGrid(self.image_size, self.image_size, patch_px=8, code_px=4)

    @property
    def cfg(self) -> dict:
        """The published cfg."""
        patches, codes = self.grid.num_patches, self.num_codes
        return {
            "block_size": 10 * patches,
            "vocab_size": codes + 2 * patches,
            "n_layer": self.layers,
            "n_head": self.heads,
            "n_embd": self.dim,
            "patch_size": 2,
            "bias": False,
            "frame_0_rgb_pos_range": (0, 5 * patches),
            "frame_1_rgb_pos_range": (5 * patches, 10 * patches),
            "rgb_range": (0, codes),
            "rgb_patch_0_idx_range": (codes, codes + patches),
            "rgb_patch_1_idx_range": (codes + patches, codes + 2 * patches),
        }


@dataclass(frozen=True)
class PlainNetwork:
    """The published network as a function of its state dict."""

    state: Mapping[str, Tensor]
    heads: int
    layers: int

    def hidden(self, tokens: Tensor, places: Tensor) -> tuple[Tensor, list, list]:
        """Output of ln_f, and each layer's keys and values; a batch of one."""
        w, keys, values = self.state, [], []
        x = w["transformer.token_embedding.weight"][tokens[0]]
        x = x + w["transformer.positional_embedding.weight"][places[0]]
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        for layer in range(self.layers):
            name = f"transformer.h.{layer}"
            normed = F.layer_norm(x, x.shape[-1:], w[f"{name}.ln_1.weight"])
            q, k, v = (normed @ w[f"{name}.attn.c_attn.weight"].T).chunk(3, dim=-1)
            q, k, v = (t.view(len(x), self.heads, -1).transpose(0, 1) for t in (q, k, v))
            scores = q @ k.mT / math.sqrt(q.shape[-1])
            mixed = scores.masked_fill(future, -math.inf).softmax(-1) @ v
            x = x + mixed.transpose(0, 1).flatten(1) @ w[f"{name}.attn.c_proj.weight"].T
            normed = F.layer_norm(x, x.shape[-1:], w[f"{name}.ln_2.weight"])
            up = F.gelu(normed @ w[f"{name}.mlp.c_fc.weight"].T)
            x = x + up @ w[f"{name}.mlp.c_proj.weight"].T
            keys.append(k[None])
            values.append(v[None])
        return F.layer_norm(x, x.shape[-1:], w["transformer.ln_f.weight"]), keys, values

    def __call__(self, tokens: Tensor, places: Tensor, last: int) -> Tensor:
        return (self.hidden(tokens, places)[0][-last:] @ self.state["lm_head.weight"].T)[None]


def write_golden_set(folder: Path, sizes: GoldenSet) -> Path:
    """Write everything that follows from the predictor."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"predictor": sizes.cfg}))
    network = _network(folder, sizes)
    grid, draw = sizes.grid, torch.Generator().manual_seed(0)
    shape = (3, grid.code_rows, grid.code_cols)
    cells = torch.randint(sizes.num_codes, shape, generator=draw)
    names = ("codes_frame0", "codes_frame1", "codes_frame0_perturbed")
    cells[2] = cells[0]
    cells[2, 1:3, 1:3] = (cells[0, 1:3, 1:3] + 1) % sizes.num_codes
    np.savez(folder / "quantizer_io.npz", **dict(zip(names, cells.numpy(), strict=True)))
    codes0, codes1, perturbed = (grid.to_patches(one)[None] for one in cells)
    orders = _orders(sizes)
    seq, pos = pack(codes0, codes1, orders["order0"], orders["order1"], sizes.num_codes, grid)
    scored = (torch.arange(seq.shape[1]) >= seq.shape[1] // 2) & (
        torch.arange(seq.shape[1]) % 5 > 0
    )
    target = torch.where(scored, seq, -1)
    _save_sequence(folder, sizes, orders, seq, pos, target)
    cols = np.sort(np.random.RandomState(1).permutation(sizes.num_codes)[:20])
    _save_causal(folder, network, seq, pos, target, cols, 4 * len(orders["reveal"]))
    before = codes0, codes1, orders["order0"], orders["order1_before_reveal"]
    _save_probability(folder, network, pack(*before, sizes.num_codes, grid))
    order1 = orders["order1"]
    shown, hidden = order1[:, : len(orders["reveal"])], order1[:, len(orders["reveal"]) :]
    rest = codes1, orders["order0"], shown
    _save_parallel(folder, network, sizes, (codes0, perturbed), rest, hidden, cols)
    few = token_by_token(network, codes0, *rest, hidden[:, :2], sizes.num_codes, grid)
    logits = torch.cat([rows[:, 0] for rows, _ in few])
    tokens = torch.cat([chosen[:, 0] for _, chosen in few])
    _save(folder, "rollout", cols=cols, new_tokens=tokens, **_statistics(logits, cols))
    _, keys, values = network.hidden(seq[:, :7], pos[:, :7])
    last = network(seq[:, :7], pos[:, :7], 1)[0, 0, cols]
    _save(folder, "kv_cache", cols=cols, k=_stack(keys), v=_stack(values), last_logits_cols=last)
    return folder


def _network(folder: Path, sizes: GoldenSet) -> PlainNetwork:
    draw, dim = torch.Generator().manual_seed(sizes.seed), sizes.dim
    shapes = {"attn.c_attn": (3 * dim, dim), "attn.c_proj": (dim, dim)}
    shapes |= {"mlp.c_fc": (4 * dim, dim), "mlp.c_proj": (dim, 4 * dim), "ln_1": (dim,)}
    shapes |= {"ln_2": (dim,)}
    state = {
        f"transformer.h.{layer}.{name}.weight": torch.randn(shape, generator=draw) * 0.4
        for layer in range(sizes.layers)
        for name, shape in shapes.items()
    } | {"transformer.ln_f.weight": 1 + torch.randn(dim, generator=draw) * 0.1}
    save_file(state, folder / "predictor_small.safetensors")
    vocab, places = sizes.cfg["vocab_size"], sizes.cfg["block_size"]
    tables = {
        "transformer.token_embedding.weight": formula_table(1, vocab, dim, 1.0),
        "transformer.positional_embedding.weight": formula_table(2, places, dim, 1.0),
        "lm_head.weight": formula_table(3, vocab, dim, 0.25),
    }
    return PlainNetwork(state | tables, sizes.heads, sizes.layers)


def _orders(sizes: GoldenSet) -> dict[str, Tensor]:
    patches = sizes.grid.num_patches
    reveal = random.Random(sizes.seed).sample(
        range(patches), int(patches * (1.0 - sizes.hidden_share))
    )
    np.random.seed(sizes.seed)
    order0, order1 = np.random.permutation(patches), np.random.permutation(patches)
    front = [p for p in order1 if p in reveal] + [p for p in order1 if p not in reveal]
    lists = {"order0": order0, "order1": front, "order1_before_reveal": order1}
    found = {name: torch.tensor(np.array(order))[None] for name, order in lists.items()}
    return found | {"reveal": torch.tensor(reveal, dtype=torch.long)}


def _save_sequence(folder: Path, sizes: GoldenSet, orders, seq, pos, target) -> None:
    order = {name: value.flatten() for name, value in orders.items()}
    packed = {"seq": seq[0], "pos": pos[0], "target": target[0]}
    length = 5 * (sizes.grid.num_patches + len(orders["reveal"]))
    given = {"seed": sizes.seed, "mask_ratio": sizes.hidden_share, "cond_len": length}
    _save(folder, "sequence", **order, **packed, **given)


def _save_causal(folder: Path, network, seq, pos, target, cols, num_shown: int) -> None:
    hidden = network.hidden(seq[:, :-1], pos[:, :-1])[0]
    logits = network(seq[:, :-1], pos[:, :-1], len(hidden))[0]
    wanted, sel = target[0, 1:], np.arange(0, len(hidden), 9)
    nll = F.cross_entropy(logits, wanted, ignore_index=-1, reduction="none")[wanted >= 0]
    found = _statistics(logits, cols)
    _save(
        folder, "causal", sel=sel, cols=cols, hidden_sel=hidden[sel], n_targets=len(nll),
        logits_sel_cols=found["logits_cols"][sel], sum_sel=found["sum"][sel],
        lse_all=found["lse"], argmax_all=found["argmax"], nll_frame1_content=nll,
        loss=nll.mean().double(), loss_unrevealed_only=nll[num_shown:].mean().double(),
    )  # fmt: skip
    first = network(seq[:, :9], torch.arange(9)[None], 9)[0]
    loss = F.cross_entropy(first, torch.full((9,), 5)).double()
    _save(
        folder, "causal_nopos", cols=cols, logits_cols=first[:, cols], lse=first.logsumexp(-1),
        loss=loss,
    )  # fmt: skip


def _save_probability(folder: Path, network: PlainNetwork, packed) -> None:
    seq, pos = packed
    half = seq.shape[1] // 2
    logits = network(seq[:, :-1], pos[:, :-1], half)[0]
    content = torch.arange(half) % 5 > 0
    loss = F.cross_entropy(logits[content], seq[0, half:][content]).item()
    about = {"prob": math.exp(-loss), "loss": loss}
    (folder / "second_frame_probability.json").write_text(json.dumps(about))


def _save_parallel(folder: Path, network, sizes: GoldenSet, frames0, rest, hidden, cols) -> None:
    grid, both, kept = sizes.grid, {}, {}
    chosen = np.arange(0, grid.num_patches, 3)
    for name, codes0 in zip(("clean", "pert"), frames0, strict=True):
        steps = four_forwards(network, codes0, *rest, hidden, sizes.num_codes, grid)
        logits = torch.zeros(grid.num_patches, 4, sizes.cfg["vocab_size"])
        logits[hidden[0]] = torch.stack([rows[0] for rows, _ in steps], dim=1)
        both[name], found = logits, _statistics(logits, cols)
        found["lse_rgb"] = logits[..., : sizes.num_codes].logsumexp(-1)
        found["max"], found["logits_sel_cols"] = logits.amax(-1), found.pop("logits_cols")[chosen]
        kept |= {f"{name}_{key}": value for key, value in found.items()}
    shown = np.isin(np.arange(grid.num_patches), rest[2])
    _save(folder, "parallel", cols=cols, patches_sel=chosen, revealed_mask=shown, **kept)
    kl = {}
    for columns, vocabulary in ((None, "full"), (sizes.num_codes, "rgb")):
        for p, q in (("clean", "pert"), ("pert", "clean")):
            logs = (both[name][..., :columns].double().log_softmax(-1) for name in (q, p))
            each = F.kl_div(*logs, log_target=True, reduction="none").sum(-1)
            name = f"kl_{p}_{q}_{vocabulary}"
            kl[f"{name}_per_token"] = each
            kl[f"{name}_first"] = each[:, 0].view(grid.rows, -1)
            kl[f"{name}_sum4"] = each.sum(1).view(grid.rows, -1)
    _save(folder, "kl", revealed_mask=shown.reshape(grid.rows, -1), **kl)


def _statistics(logits: Tensor, cols: np.ndarray) -> dict[str, Tensor]:
    return {
        "logits_cols": logits[..., cols],
        "lse": logits.logsumexp(-1),
        "argmax": logits.argmax(-1),
        "sum": logits.double().sum(-1),
    }


def _stack(tensors: list[Tensor]) -> Tensor:
    return torch.stack(tensors)


def _save(folder: Path, name: str, **arrays: Tensor | np.ndarray | float) -> None:
    np.savez(folder / f"{name}.npz", **{key: np.asarray(value) for key, value in arrays.items()})
