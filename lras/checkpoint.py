"""Save and load a trained model: safetensors weights beside a readable config.json.

An export holds quantizer and predictor with their configs and the quantizer's fingerprint. ``load``
takes an export folder, a run folder that contains one, or a Lightning .ckpt of a predictor run; no
code from a file is ever run.
"""

import dataclasses
import json
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def describe(model: nn.Module) -> dict[str, Any]:
    """Configs of a model (quantizer and predictor, or a quantizer alone) as plain data."""
    quantizer = model if isinstance(model, Quantizer) else model.quantizer
    about = {
        "quantizer": dataclasses.asdict(quantizer.cfg),
        "fingerprint": quantizer.fingerprint(),
    }
    if not isinstance(model, Quantizer):
        about["predictor"] = dataclasses.asdict(model.predictor.cfg)
    return about


def save(
    model: NextFrame | Quantizer, folder: str | Path, note: dict[str, Any] | None = None
) -> Path:
    """Write an export; ``note`` (plain data: step, git sha, ...) is kept in config.json."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    partial = folder / (WEIGHTS + ".partial")
    save_file(weights, partial)
    _move_into_place(partial)
    partial = folder / (CONFIG + ".partial")
    partial.write_text(json.dumps(describe(model) | {"note": note or {}}, indent=2) + "\n")
    _move_into_place(partial)
    return folder


def load(path: str | Path, device: str = "cpu") -> NextFrame:
    """A frozen model in evaluation mode.

    Raises:
        FileNotFoundError: nothing to load at ``path``.
        ValueError: the file holds a quantizer only, or weights of another config.
    """
    about, weights = _read(Path(path))
    if "predictor" not in about:
        raise ValueError(
            f"{path} holds a quantizer without a predictor; pass it as quantizer=, not as ckpt=."
        )
    predictor = FramePredictor(_config(PredictorConfig, about["predictor"], path))
    model = NextFrame(Quantizer(_config(QuantizerConfig, about["quantizer"], path)), predictor)
    return _fill(model, weights, about, path).to(device)


def load_quantizer(path: str | Path) -> Quantizer:
    """The frozen quantizer of an export, run folder or .ckpt, whatever else it holds."""
    about, weights = _read(Path(path))
    quantizer = Quantizer(_config(QuantizerConfig, about["quantizer"], path))
    own = {k.removeprefix("quantizer."): v for k, v in weights.items() if "predictor" not in k}
    return _fill(quantizer, own, about, path)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and weights of whatever lies at ``path``."""
    for folder in (path, path / "export"):
        if (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file():
            return _read_export(folder)
    ckpt = path / "checkpoints" / "last.ckpt" if path.is_dir() else path
    if not ckpt.is_file():
        found = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else "no such path"
        raise FileNotFoundError(
            f"no checkpoint at {path} (found: {found}); expected a run folder, an export with "
            f"{CONFIG} and {WEIGHTS}, or a .ckpt file: pass ckpt=RUN."
        )
    try:
        state = torch.load(ckpt, map_location="cpu", weights_only=True)
        about, weights = state["lras"], state["state_dict"]
    except (UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise ValueError(
            f"{ckpt} is not a checkpoint of this project ({type(error).__name__}); pass a run "
            f"folder or .ckpt written by train.py."
        ) from error
    return about, weights


def _read_export(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        about = json.loads((folder / CONFIG).read_text())
        weights = load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError) as error:
        raise ValueError(
            f"the export at {folder} is damaged ({error}); write it again from the run's .ckpt."
        ) from error
    if not {"quantizer", "fingerprint"} <= about.keys():
        raise ValueError(
            f"{folder / CONFIG} holds {sorted(about)}, expected quantizer, fingerprint and "
            f"predictor; pass a folder that train.py wrote."
        )
    return about, weights


def _config(kind: type, values: dict[str, Any], path: str | Path) -> Any:
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(
            f"{path} was written with another {kind.__name__} ({error}); use the version of the "
            f"code that trained it."
        ) from error


def _fill(model: nn.Module, weights: dict[str, torch.Tensor], about: dict, path: str | Path) -> Any:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights at {path} do not fit their config "
            f"({str(error).splitlines()[1].strip()}); pass the run that wrote both."
        ) from error
    model.eval().requires_grad_(False)
    quantizer = model if isinstance(model, Quantizer) else model.quantizer
    if about["fingerprint"] != quantizer.fingerprint():
        raise ValueError(
            f"{path}: the quantizer's weights have fingerprint {quantizer.fingerprint()}, but the "
            f"config says {about['fingerprint']}; the files were mixed up, export them again."
        )
    return model


def _move_into_place(partial: Path) -> None:
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.replace(partial.with_suffix(""))
