"""Arrays computed by the published classes, and our numbers beside them.

A golden folder holds a tiny random instance of the published models (weights and cfg) and what
the published code makes of two frames with it. Everything is read from the folder: another set
may have other layers, heads, seeds or reveal ratio. ``compare`` is what the tests and
``python -m lras.official verify`` run.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from lras.lpq import LPQ
from lras.official import golden_predictor as of_predictor
from lras.official.checks import Check
from lras.official.golden_quantizer import check_quantizer
from lras.official.golden_tokens import check_flow, check_poses, check_sampling
from lras.official.names import predictor_config, quantizer_config, quantizer_to_ours, to_ours
from lras.predictor import FramePredictor

# Arrays that say what was asked; all others are answers, and each is compared.
QUESTIONS = {
    "images": None,  # all of them: frames are pixels, whatever the model
    "quantizer_io": {"dec_small_codes"},
    "sequence": {"seed", "mask_ratio"},
    "causal": {"sel", "cols"},
    "causal_nopos": {"cols"},
    "parallel": {"cols", "patches_sel"},
    "rollout": {"cols"},
    "kv_cache": {"cols"},
    "sampling": {"logits", "temp_topk_topp"},
    "pose_flow_tokens": {"pose_mats", "flow_values", "flow64_codes"},
}

# The three big tables of the small predictor are a formula, not a file: id and scale of each.
_TABLES = {
    "transformer.token_embedding.weight": (1, 1.0),
    "transformer.positional_embedding.weight": (2, 1.0),
    "lm_head.weight": (3, 0.25),
}


def formula_table(table_id: int, rows: int, cols: int, scale: float) -> Tensor:
    """A table of pseudo-random numbers in [-scale, scale): splitmix64 of the flat index."""
    with np.errstate(over="ignore"):
        index = np.arange(rows * cols, dtype=np.uint64) + np.uint64((table_id << 40) + 1)
        z = index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    values = (2.0 * (z >> np.uint64(40)) / 2.0**24 - 1) * scale
    return torch.from_numpy(values.astype(np.float32)).view(rows, cols)


def official_config(folder: Path, which: str = "predictor") -> dict[str, Any]:
    """The published cfg dict of the folder's ``predictor`` or ``quantizer``."""
    cfg = json.loads(_file(folder, "config.json").read_text())[which]
    return {key: _as_tuples(value) for key, value in cfg.items()}


def official_state_dict(folder: Path) -> dict[str, Tensor]:
    """The small predictor's complete state dict, float32, by its published key names."""
    cfg = official_config(folder)
    rows = dict(
        zip(_TABLES, (cfg["vocab_size"], cfg["block_size"], cfg["vocab_size"]), strict=True)
    )
    tables = {
        name: formula_table(table_id, rows[name], cfg["n_embd"], scale)
        for name, (table_id, scale) in _TABLES.items()
    }
    return tables | load_file(_file(folder, "predictor_small.safetensors"))


def small_predictor(folder: Path) -> FramePredictor:
    """The predictor of a golden folder, frozen."""
    cfg = predictor_config(official_config(folder))
    predictor = FramePredictor(cfg)
    predictor.load_state_dict(dict(to_ours(official_state_dict(folder), cfg.num_layers)))
    return predictor.eval().requires_grad_(False)


def small_quantizer(folder: Path) -> LPQ:
    """The quantizer of a golden folder, frozen."""
    quantizer = LPQ(quantizer_config(official_config(folder, "quantizer")))
    weights = load_file(_file(folder, "quantizer.safetensors"))
    quantizer.load_state_dict(dict(quantizer_to_ours(weights)))
    return quantizer.eval().requires_grad_(False)


def answers(folder: Path) -> set[str]:
    """Names, file:array, of everything a golden folder knows the published answer to."""
    names = {"second_frame_probability:loss", "second_frame_probability:prob"}
    for path in Path(folder).glob("*.npz"):
        asked = QUESTIONS.get(path.stem, set())
        if asked is not None:
            names |= {f"{path.stem}:{key}" for key in arrays(folder, path.stem).keys() - asked}
    return names


def compare(
    predictor: FramePredictor | None, quantizer: LPQ | None, folder: str | Path
) -> list[Check]:
    """Every answer of a golden folder beside ours, float32 on CPU; about half a minute.

    What belongs to a model that is None is left out.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: an array is missing, or the models have other sizes than the folder's.
    """
    folder, checks = Path(folder), []
    try:
        if quantizer is not None:
            checks += quantizer_checks(quantizer, folder)
        if predictor is not None:
            checks += predictor_checks(predictor, folder)
        return checks + token_checks(folder)
    except KeyError as missing:
        raise ValueError(
            f"the golden folder {folder} lacks {missing}; pass a complete set of golden arrays."
        ) from missing


def quantizer_checks(quantizer: LPQ, folder: Path) -> list[Check]:
    """Codes, margins and pictures."""
    codes = arrays(folder, "quantizer_io")
    _check_quantizer_size(quantizer, codes)
    return list(check_quantizer(quantizer, arrays(folder, "images"), codes))


@torch.no_grad()
def predictor_checks(predictor: FramePredictor, folder: Path) -> list[Check]:
    """Sequence, causal pass, patch-parallel prediction, divergence, roll-out, cache."""
    _check_predictor_size(predictor, official_config(folder))
    orders = arrays(folder, "sequence")
    scene = of_predictor.read_scene(arrays(folder, "quantizer_io"), orders, predictor)
    probability = json.loads(_file(folder, "second_frame_probability.json").read_text())
    both = arrays(folder, "parallel"), arrays(folder, "kl")
    return [
        *of_predictor.check_sequence(predictor, scene, orders),
        *of_predictor.check_causal(predictor, scene, arrays(folder, "causal")),
        *of_predictor.check_first_places(predictor, scene, arrays(folder, "causal_nopos")),
        *of_predictor.check_probability(predictor, scene, orders, probability),
        *of_predictor.check_parallel(predictor, scene, *both),
        *of_predictor.check_roll_out(predictor, scene, arrays(folder, "rollout")),
        *of_predictor.check_cache(predictor, scene, arrays(folder, "kv_cache")),
    ]


def token_checks(folder: Path) -> list[Check]:
    """Sampling, camera poses and flow, which need no model."""
    tokens = arrays(folder, "pose_flow_tokens")
    sampling = check_sampling(arrays(folder, "sampling"))
    return [*sampling, *check_poses(tokens), *check_flow(tokens)]


def _check_predictor_size(predictor: FramePredictor, cfg: Mapping[str, Any]) -> None:
    own = predictor.cfg
    ours = {
        "n_layer": own.num_layers,
        "n_head": own.num_heads,
        "n_embd": own.dim,
        "vocab_size": len(predictor.head_weight()),
    }
    differ = [f"{key}={ours[key]} (golden: {cfg[key]})" for key in ours if ours[key] != cfg[key]]
    if differ:
        raise ValueError(
            f"the predictor has {', '.join(differ)}; golden arrays belong to one model, pass the "
            f"one they were made with."
        )


def _check_quantizer_size(quantizer: LPQ, codes: Mapping[str, np.ndarray]) -> None:
    theirs = codes["proj_frame0_rows0_8"].shape[-1], len(codes["emb_frame1_4x4"])
    ours = quantizer.cfg.bits, quantizer.cfg.width
    if ours != theirs:
        raise ValueError(
            f"the quantizer has {ours[0]} bits and {ours[1]} channels, the golden arrays are of "
            f"one with {theirs[0]} and {theirs[1]}; pass the one they were made with."
        )


def _as_tuples(value: Any) -> Any:
    """JSON has lists where the published cfg has tuples."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of one .npz file of a golden folder."""
    path = _file(folder, f"{name}.npz")
    try:
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    except (BadZipFile, ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); take another copy.") from error


def _file(folder: Path, name: str) -> Path:
    path = Path(folder) / name
    if not path.is_file():
        raise FileNotFoundError(
            f"no {name} in {folder}; pass a folder of golden arrays (config.json, causal.npz, ...)."
        )
    return path
