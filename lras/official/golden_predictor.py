"""The small predictor's arrays, ours beside theirs: sequence, causal pass, read-outs, divergence.

Where the published code feeds its own arg-max back, theirs is fed here too (and compared with
ours), so that a near tie that falls the other way cannot carry on into everything after it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lras.official.checks import (
    KL_FLOOR,
    KL_RELATIVE,
    LOGITS,
    NEAR_TIE,
    Check,
    close,
    exact,
    relative,
)
from lras.official.packing import IGNORED, permutations, published_orders, reveal_list, targets
from lras.official.read_out import (
    Cache,
    all_logits,
    patch_parallel,
    read,
    read_condition,
    roll_out,
)
from lras.predictor import FramePredictor
from lras.sequence import Sequence, two_frames

ROWS = 256  # rows of logits over the whole vocabulary held at a time
CACHED_ROWS = 2  # rows in float64 that a processor keeps in its cache
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scene:
    """Their codes and orders, with a batch axis; ``perturbed`` is frame 0 with the tracer."""

    codes0: Int[Tensor, "1 patches codes"]
    codes1: Int[Tensor, "1 patches codes"]
    perturbed: Int[Tensor, "1 patches codes"]
    order0: Int[Tensor, "1 patches"]
    order1: Int[Tensor, "1 patches"]
    num_revealed: int

    @property
    def revealed(self) -> Int[Tensor, "1 revealed"]:
        return self.order1[:, : self.num_revealed]

    @property
    def hidden(self) -> Int[Tensor, "1 hidden"]:
        return self.order1[:, self.num_revealed :]


def read_scene(codes: Arrays, orders: Arrays, predictor: FramePredictor) -> Scene:
    names = ("codes_frame0", "codes_frame1", "codes_frame0_perturbed")
    grouped = [predictor.cfg.grid.to_patches(torch.from_numpy(codes[name])[None]) for name in names]
    order0, order1 = (torch.from_numpy(orders[f"order{frame}"])[None] for frame in (0, 1))
    return Scene(*grouped, order0, order1, len(orders["reveal"]))


def packed(predictor: FramePredictor, scene: Scene, order1: Int[Tensor, "1 patches"]) -> Sequence:
    grid = predictor.cfg.grid
    vocab = predictor.cfg.vocab(grid)
    return two_frames(scene.codes0, scene.codes1, scene.order0, order1, vocab, True)


def check_sequence(predictor: FramePredictor, scene: Scene, theirs: Arrays) -> Iterable[Check]:
    """What their seed decides, and the sequence that follows from it."""
    grid, seed, share = predictor.cfg.grid, int(theirs["seed"]), float(theirs["mask_ratio"])
    orders = published_orders(grid.num_patches, share, seed)
    drawn = {
        "reveal": reveal_list(grid.num_patches, share, seed),
        "order0": orders.order0,
        "order1": orders.order1,
        "order1_before_reveal": permutations(grid.num_patches, seed)[1],
    }
    seq = packed(predictor, scene, scene.order1)
    made = {
        "seq": seq.tokens[0],
        "pos": predictor.places(seq, grid)[0],
        "target": targets(seq)[0],
        "cond_len": (grid.num_patches + len(orders.revealed)) * (1 + grid.codes_per_patch),
    }
    return [
        exact(f"sequence:{name}", value, theirs[name]) for name, value in (drawn | made).items()
    ]


# --- one causal pass ----------------------------------------------------------------------------


def check_causal(predictor: FramePredictor, scene: Scene, theirs: Arrays) -> Iterable[Check]:
    """Hidden states, logits and loss of the whole sequence."""
    grid, seq = predictor.cfg.grid, packed(predictor, scene, scene.order1)
    scored = targets(seq)[0, 1:]
    hidden, rows = causal_rows(
        predictor, seq.tokens[:, :-1], predictor.places(seq, grid)[:, :-1], scored
    )
    chosen = hidden[:, theirs["sel"]]
    logits = all_logits(predictor, chosen)[0]
    nll = rows["nll"][scored != IGNORED].double()
    in_hidden = nll[scene.num_revealed * grid.codes_per_patch :]
    at_theirs = rows_at(predictor, hidden, torch.from_numpy(theirs["argmax_all"]).long())
    return [
        close("causal:hidden_sel", chosen[0], theirs["hidden_sel"]),
        close("causal:logits_sel_cols", logits[:, theirs["cols"]], theirs["logits_sel_cols"]),
        per_column("causal:sum_sel", logits.double().sum(-1), theirs["sum_sel"], predictor),
        close("causal:lse_all", rows["lse"], theirs["lse_all"]),
        exact(
            "causal:argmax_all",
            rows["argmax"],
            theirs["argmax_all"],
            excused=(rows["max"] - at_theirs).numpy() < NEAR_TIE,
        ),
        close("causal:nll_frame1_content", nll, theirs["nll_frame1_content"]),
        exact("causal:n_targets", len(nll), theirs["n_targets"]),
        close("causal:loss", nll.mean(), theirs["loss"]),
        close("causal:loss_unrevealed_only", in_hidden.mean(), theirs["loss_unrevealed_only"]),
    ]


def check_first_places(predictor: FramePredictor, scene: Scene, theirs: Arrays) -> Iterable[Check]:
    """The first tokens at places 0, 1, 2, ..., all asked for token 5."""
    count = len(theirs["lse"])
    tokens = packed(predictor, scene, scene.order1).tokens[:, :count]
    hidden, rows = causal_rows(
        predictor, tokens, torch.arange(count)[None], torch.full((count,), 5)
    )
    logits = all_logits(predictor, hidden)[0]
    return [
        close("causal_nopos:logits_cols", logits[:, theirs["cols"]], theirs["logits_cols"]),
        close("causal_nopos:lse", rows["lse"], theirs["lse"]),
        close("causal_nopos:loss", rows["nll"].double().mean(), theirs["loss"]),
    ]


def check_probability(
    predictor: FramePredictor, scene: Scene, orders: Arrays, theirs: Mapping[str, Any]
) -> Iterable[Check]:
    """Loss of frame 1 with nothing brought to the front, and the probability made of it."""
    order1 = torch.from_numpy(orders["order1_before_reveal"])[None]
    grid = predictor.cfg.grid
    nats = predictor(scene.codes0, scene.codes1, scene.order0, order1, grid)
    loss = float(nats.double().mean())
    return [
        close("second_frame_probability:loss", loss, theirs["loss"]),
        relative("second_frame_probability:prob", math.exp(-loss), theirs["prob"], LOGITS),
    ]


def causal_rows(
    predictor: FramePredictor,
    tokens: Int[Tensor, "1 seq"],
    places: Int[Tensor, "1 seq"],
    asked: Int[Tensor, " seq"],
) -> tuple[Float[Tensor, "1 seq dim"], dict[str, Tensor]]:
    """Hidden states, and of each row of logits: logsumexp, arg-max, maximum, nats of ``asked``."""
    hidden = read(predictor, tokens, places, Cache(tokens.shape[1]))
    parts: dict[str, list[Tensor]] = {"lse": [], "argmax": [], "max": [], "nll": []}
    for rows, named in zip(hidden[0].split(ROWS), asked.split(ROWS), strict=True):
        logits = all_logits(predictor, rows[None])[0]
        highest = logits.max(-1)
        lse = logits.logsumexp(-1)
        parts["lse"].append(lse)
        parts["max"].append(highest.values)
        parts["argmax"].append(highest.indices)
        parts["nll"].append(lse - logits.gather(1, named.clamp_min(0)[:, None])[:, 0])
    return hidden, {name: torch.cat(found) for name, found in parts.items()}


def rows_at(
    predictor: FramePredictor, hidden: Float[Tensor, "1 seq dim"], tokens: Int[Tensor, " seq"]
) -> Float[Tensor, " seq"]:
    """The logit of one token per row."""
    return (hidden[0] * predictor.head_weight()[tokens]).sum(-1).float()


# --- the cache, roll-out --------------------------------------------------------------------------


def check_cache(predictor: FramePredictor, scene: Scene, theirs: Arrays) -> Iterable[Check]:
    """Keys and values of the first tokens."""
    count, seq = theirs["k"].shape[3], packed(predictor, scene, scene.order1)
    cache = Cache(count)
    places = predictor.places(seq, predictor.cfg.grid)
    read(predictor, seq.tokens[:, :count], places[:, :count], cache)
    kept = [cache.block(index) for index in range(len(predictor.blocks))]
    logits = all_logits(predictor, cache.last)[0, 0]
    return [
        close("kv_cache:k", torch.stack([keys for keys, _ in kept]), theirs["k"]),
        close("kv_cache:v", torch.stack([values for _, values in kept]), theirs["v"]),
        close("kv_cache:last_logits_cols", logits[theirs["cols"]], theirs["last_logits_cols"]),
    ]


def check_roll_out(predictor: FramePredictor, scene: Scene, theirs: Arrays) -> Iterable[Check]:
    """A few patches token by token, after the condition."""
    grid, fed = predictor.cfg.grid, iter(torch.from_numpy(theirs["new_tokens"]))
    patches = len(theirs["new_tokens"]) // (1 + grid.codes_per_patch)
    cache = read_condition(
        predictor, scene.codes0, scene.codes1, scene.order0, scene.revealed, grid
    )
    steps = roll_out(
        predictor, cache, scene.hidden[:, :patches], grid, lambda _: next(fed)[None, None]
    )
    found = [(step.logits[0, 0], step.tokens[0, 0]) for step in steps]
    logits = torch.stack([rows for rows, _ in found])
    tokens = torch.stack([token for _, token in found])
    content = torch.arange(len(tokens)) % (1 + grid.codes_per_patch) > 0
    ours = torch.where(content, logits.argmax(-1), tokens)  # pointers are set, not chosen
    tie = content.numpy() & near_tie(logits, theirs["new_tokens"])
    return [
        exact("rollout:new_tokens", ours, theirs["new_tokens"], excused=tie),
        exact(
            "rollout:argmax",
            logits.argmax(-1),
            theirs["argmax"],
            near_tie(logits, theirs["argmax"]),
        ),
        close("rollout:logits_cols", logits[:, theirs["cols"]], theirs["logits_cols"]),
        close("rollout:lse", logits.logsumexp(-1), theirs["lse"]),
        per_column("rollout:sum", logits.double().sum(-1), theirs["sum"], predictor),
    ]


# --- patch-parallel prediction, clean and perturbed -----------------------------------------------


def check_parallel(
    predictor: FramePredictor, scene: Scene, theirs: Arrays, kl: Arrays
) -> Iterable[Check]:
    """Both branches step by step, and the divergence between them."""
    grid = predictor.cfg.grid
    hidden, num_codes = scene.hidden[0], grid.codes_per_patch
    branches = {
        "clean": _branch(predictor, scene, scene.codes0, theirs["clean_argmax"]),
        "pert": _branch(predictor, scene, scene.perturbed, theirs["pert_argmax"]),
    }
    found = {name: Summary(theirs, name, predictor, grid.num_patches) for name in branches}
    divergence = {
        name: np.zeros((grid.num_patches, num_codes)) for name in kl if "per_token" in name
    }
    for code, steps in enumerate(zip(*branches.values(), strict=True)):
        logits = dict(zip(branches, (step.logits[0] for step in steps), strict=True))
        for name, rows in logits.items():
            found[name].add(code, hidden, rows)
        for vocabulary, columns in (("full", None), ("rgb", predictor.cfg.num_codes)):
            both = (rows[:, :columns] for rows in logits.values())
            forth, back = divergences(*both)
            divergence[f"kl_clean_pert_{vocabulary}_per_token"][hidden, code] = forth
            divergence[f"kl_pert_clean_{vocabulary}_per_token"][hidden, code] = back
    shown = np.isin(np.arange(grid.num_patches), scene.revealed[0])
    checks = [exact("parallel:revealed_mask", shown, theirs["revealed_mask"])]
    checks += [check for name in branches for check in found[name].checks()]
    checks.append(
        exact("kl:revealed_mask", shown.reshape(grid.rows, grid.cols), kl["revealed_mask"])
    )
    return checks + divergence_checks(divergence, kl, grid.rows)


def _branch(predictor: FramePredictor, scene: Scene, codes0: Tensor, fed: np.ndarray):
    grid = predictor.cfg.grid
    cache = read_condition(predictor, codes0, scene.codes1, scene.order0, scene.revealed, grid)
    choices = iter(torch.from_numpy(fed)[scene.hidden].long().unbind(-1))
    return patch_parallel(predictor, cache, scene.hidden, grid, lambda _: next(choices))


class Summary:
    """Their statistics of one branch, raster order; revealed patches are rows of zero logits."""

    def __init__(self, theirs: Arrays, name: str, predictor: FramePredictor, patches: int) -> None:
        self.theirs, self.name, self.predictor = theirs, name, predictor
        shape, vocab = theirs[f"{name}_lse"].shape, len(predictor.head_weight())
        self.found = {key: np.zeros(shape) for key in ("max", "sum", "argmax")}
        self.found["lse"] = np.full(shape, math.log(vocab))
        self.found["lse_rgb"] = np.full(shape, math.log(predictor.cfg.num_codes))
        self.tie = np.zeros(shape, dtype=bool)
        self.chosen = np.zeros(theirs[f"{name}_logits_sel_cols"].shape)

    def add(self, code: int, hidden: Tensor, logits: Float[Tensor, "hidden vocab"]) -> None:
        """Take in one step; ``logits`` in the order of ``hidden``."""
        values = {
            "max": logits.amax(-1),
            "argmax": logits.argmax(-1),
            "sum": logits.sum(-1, dtype=torch.float64),
            "lse": logits.logsumexp(-1),
            "lse_rgb": logits[:, : self.predictor.cfg.num_codes].logsumexp(-1),
        }
        for key, value in values.items():
            self.found[key][hidden, code] = value
        theirs = self.theirs[f"{self.name}_argmax"][hidden, code]
        self.tie[hidden, code] = near_tie(logits, theirs)
        for row, patch in enumerate(self.theirs["patches_sel"]):
            where = (hidden == int(patch)).nonzero()[:, 0]
            if len(where):
                self.chosen[row, code] = logits[where[0], self.theirs["cols"]]

    def checks(self) -> list[Check]:
        def pair(key: str) -> tuple[str, np.ndarray, np.ndarray]:
            name = f"{self.name}_{key}"
            return f"parallel:{name}", self.found[key], self.theirs[name]

        chosen = f"{self.name}_logits_sel_cols"
        return [
            *(close(*pair(key)) for key in ("lse", "lse_rgb", "max")),
            per_column(*pair("sum"), self.predictor),
            exact(*pair("argmax"), excused=self.tie),
            close(f"parallel:{chosen}", self.chosen, self.theirs[chosen]),
        ]


def divergences(
    clean: Float[Tensor, "n vocab"], perturbed: Float[Tensor, "n vocab"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """KL(clean || perturbed) and KL(perturbed || clean) in nats, float64."""
    forth, back = [], []
    for p, q in zip(clean.split(CACHED_ROWS), perturbed.split(CACHED_ROWS), strict=True):
        log_p, log_q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        ratio = log_p - log_q
        forth.append((log_p.exp() * ratio).sum(-1))
        back.append(-(log_q.exp() * ratio).sum(-1))
    return torch.cat(forth), torch.cat(back)


def divergence_checks(
    divergence: Mapping[str, np.ndarray], theirs: Arrays, rows: int
) -> list[Check]:
    """Per token, of the first token, and summed over a patch's tokens."""
    checks = []
    for name, per_token in divergence.items():
        made = {
            name: per_token,
            name.replace("per_token", "first"): per_token[:, 0].reshape(rows, -1),
            name.replace("per_token", "sum4"): per_token.sum(1).reshape(rows, -1),
        }
        checks += [
            relative(f"kl:{key}", values, theirs[key], KL_RELATIVE, KL_FLOOR)
            for key, values in made.items()
        ]
    return checks


# --- tolerances ----------------------------------------------------------------------------------


def near_tie(logits: Float[Tensor, "n vocab"], theirs: np.ndarray) -> np.ndarray:
    """Rows in which their arg-max is as high as ours, but for ``NEAR_TIE``."""
    index = torch.from_numpy(np.asarray(theirs, dtype=np.int64))[:, None]
    return (logits.amax(-1) - logits.gather(1, index)[:, 0]).numpy() < NEAR_TIE


def per_column(
    name: str, ours: Tensor | np.ndarray, theirs: np.ndarray, predictor: FramePredictor
) -> Check:
    """Sums over the vocabulary, compared as means."""
    vocab = len(predictor.head_weight())
    return close(name, np.asarray(ours) / vocab, theirs / vocab, note="per column")
