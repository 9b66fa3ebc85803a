"""Save and load a trained model: safetensors weights beside a readable config.json.

An export holds quantizer and predictor (or one of them) with their configs and the quantizer's
fingerprint. ``load`` takes an export folder, a run folder that contains one, a Lightning .ckpt of a
predictor run, in one file or distributed, or a published LRAS checkpoint; no code from a file is
ever run.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lras.config import PredictorConfig, QuantizerConfig
from lras.export_files import CONFIG, WEIGHTS, is_export, read_export, write_export
from lras.lpq import LPQ, LPQConfig
from lras.next_frame import NextFrame
from lras.official.convert import our_export
from lras.official.files import as_official, is_official, read_torch_file
from lras.offload import offload_blocks
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.sharded_files import is_sharded, read_sharded

PREFIXES = ("predictor.", "quantizer.")  # of the weights of an export that holds both


def describe(model: nn.Module) -> dict[str, Any]:
    """Configs of a model (quantizer, predictor or both) as plain data."""
    about: dict[str, Any] = {}
    quantizer = model if isinstance(model, Quantizer) else getattr(model, "quantizer", None)
    predictor = model if isinstance(model, FramePredictor) else getattr(model, "predictor", None)
    if quantizer is not None:
        about["quantizer"] = dataclasses.asdict(quantizer.cfg)
        about["fingerprint"] = quantizer.fingerprint()
    if predictor is not None:
        about["predictor"] = dataclasses.asdict(predictor.cfg)
    return about


def save(
    model: NextFrame | Quantizer | FramePredictor,
    folder: str | Path,
    note: dict[str, Any] | None = None,
) -> Path:
    """Write an export; ``note`` (plain data: step, git sha, ...) is kept in config.json.

    Without one, the note that the model was loaded with is kept.
    """
    about = describe(model) | {"note": dict(model.note if note is None else note)}
    return write_export(folder, about, model.state_dict())


def load(
    path: str | Path,
    device: str = "cpu",
    *,
    quantizer: str | Path | None = None,
    dtype: torch.dtype | None = None,
    offload: bool = False,
) -> NextFrame:
    """A frozen model in evaluation mode.

    ``quantizer`` names the quantizer of a predictor that comes without one. ``dtype`` is that of
    the predictor (None = as in the file); the quantizer stays float32. With ``offload`` the blocks
    stay in CPU memory and visit ``device`` one at a time.

    Raises:
        FileNotFoundError: nothing to load at ``path``.
        ValueError: the file holds no predictor, weights of another config, or another quantizer
            than the one that is named.
    """
    about, weights = read(path)
    cfg = predictor_config_of(about, path)
    own = _quantizer(about, weights, path)
    named = None if quantizer is None else load_quantizer(quantizer)
    if own is None and named is None:
        raise ValueError(
            f"{path} holds a predictor without its quantizer; pass quantizer=FILE as well."
        )
    if own is not None and named is not None and own.fingerprint() != named.fingerprint():
        raise ValueError(
            f"{path} was trained on the codes of quantizer {own.fingerprint()}, but {quantizer} is "
            f"{named.fingerprint()}; leave quantizer= out."
        )
    with torch.device("meta"):  # no weights are drawn that would be thrown away
        predictor = FramePredictor(cfg)
    model = NextFrame((own or named).to(device), predictor)
    where = "cpu" if offload else device
    _fill(predictor, part_of(weights, "predictor."), path, where, dtype)
    if offload:
        offload_blocks(predictor, torch.device(device))
    model.note = about.get("note", {})
    return model.eval().requires_grad_(False)


def load_quantizer(path: str | Path) -> Quantizer:
    """The frozen quantizer of an export, run folder, .ckpt or published file."""
    about, weights = read(path, only="quantizer.")
    quantizer = _quantizer(about, weights, path)
    if quantizer is None:
        raise ValueError(
            f"{path} holds a predictor without a quantizer; pass it as ckpt=, not as quantizer=."
        )
    return quantizer


def load_predictor(path: str | Path) -> FramePredictor:
    """The frozen predictor alone of whatever holds one, on the CPU, as in the file."""
    about, weights = read(path)
    with torch.device("meta"):
        predictor = FramePredictor(predictor_config_of(about, path))
    _fill(predictor, part_of(weights, "predictor."), path, "cpu", None)
    predictor.note = about.get("note", {})
    return predictor.eval().requires_grad_(False)


def read(path: str | Path, only: str = "") -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of whatever lies at ``path``; the weights are views of its files.

    Where both networks are there, names start with ``predictor.`` and ``quantizer.``; a network
    alone has bare names (``part_of`` gives bare names of either). Of a distributed checkpoint,
    which cannot be viewed, weights whose names do not begin with ``only`` are left out.
    """
    path = Path(path)
    for folder in (path, path / "export"):
        if is_export(folder):
            return read_export(folder)
    last = path / "checkpoints" / "last.ckpt"
    ckpt = path if is_sharded(path) or not path.is_dir() else last
    if is_sharded(ckpt):
        state = read_sharded(ckpt, optimizers=False, weights=only)
        return state["lras"], state["state_dict"]
    if not ckpt.is_file():
        found = sorted(p.name for p in path.iterdir())[:8] if path.is_dir() else "no such path"
        raise FileNotFoundError(
            f"no checkpoint at {path} (found: {found}); expected a run folder, an export with "
            f"{CONFIG} and {WEIGHTS}, a .ckpt file or a published checkpoint: pass ckpt=RUN."
        )
    state = read_torch_file(ckpt)
    if is_official(state):
        return our_export(as_official(ckpt, state))
    if not {"lras", "state_dict"} <= state.keys():
        raise ValueError(
            f"{ckpt} holds {', '.join(map(str, state)) or 'nothing'}, which is no checkpoint of "
            "this project; pass a run folder or .ckpt written by train.py."
        )
    return state["lras"], state["state_dict"]


def predictor_config_of(about: dict[str, Any], path: str | Path) -> PredictorConfig:
    """The predictor's config out of what ``read`` says is at ``path``."""
    if "predictor" not in about:
        raise ValueError(
            f"{path} holds a quantizer without a predictor; pass it as quantizer=, not as ckpt=."
        )
    return _config(PredictorConfig.from_plain, about["predictor"], path)


def _quantizer(
    about: dict[str, Any], weights: dict[str, Tensor], path: str | Path
) -> Quantizer | None:
    """The quantizer among the weights, checked by its fingerprint; None where there is none."""
    if "quantizer" not in about:
        return None
    if "encoder_blocks" in about["quantizer"]:
        quantizer: Quantizer = LPQ(_config(lambda v: LPQConfig(**v), about["quantizer"], path))
    else:
        quantizer = Quantizer(_config(lambda v: QuantizerConfig(**v), about["quantizer"], path))
    _fill(quantizer, part_of(weights, "quantizer."), path, "cpu", torch.float32)
    quantizer.eval().requires_grad_(False)
    quantizer.note = about.get("note", {})
    if about.get("fingerprint") != quantizer.fingerprint():
        raise ValueError(
            f"{path}: the quantizer's weights have fingerprint {quantizer.fingerprint()}, but the "
            f"config says {about.get('fingerprint')}; the files were mixed up, export them again."
        )
    return quantizer


def part_of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one network by their bare names: all of them where there is only one."""
    if not any(name.startswith(PREFIXES) for name in weights):
        return weights
    return {
        name.removeprefix(prefix): value
        for name, value in weights.items()
        if name.startswith(prefix)
    }


def _config(make: Callable[[dict], Any], values: dict[str, Any], path: str | Path) -> Any:
    try:
        return make(values)
    except TypeError as error:
        raise ValueError(
            f"{path} was written with other settings than this version has ({error}); use the "
            f"version of the code that trained it."
        ) from error


def _fill(
    model: nn.Module,
    weights: dict[str, Tensor],
    path: str | Path,
    device: str,
    dtype: torch.dtype | None,
) -> None:
    """Copy the weights in, one tensor at a time: nothing is ever held twice."""
    owned = dict(_moved(weights.items(), device, dtype))
    try:
        model.load_state_dict(owned, assign=True)
    except RuntimeError as error:
        raise ValueError(
            f"the weights at {path} do not fit their config "
            f"({str(error).splitlines()[1].strip()}); pass the run that wrote both."
        ) from error


def _moved(
    weights: Iterable[tuple[str, Tensor]], device: str, dtype: torch.dtype | None
) -> Iterable[tuple[str, Tensor]]:
    for name, value in weights:
        kind = dtype if value.is_floating_point() else None
        yield name, value.to(device=device, dtype=kind, copy=True)
