"""The way back: a model of ours as a checkpoint in the published layout."""

import mmap
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from lras.checkpoint import part_of, read
from lras.config import PredictorConfig
from lras.lpq import LPQConfig
from lras.official.convert import check_room
from lras.official.files import Kind
from lras.official.names import (
    QUANTIZER_MASK,
    QUANTIZER_SIZES,
    RANGES,
    check_weights,
    official_names,
    predictor_config,
    quantizer_config,
)
from lras.vocab import TokenRanges

_CLASSES = {
    "predictor": {
        "config_class": "lras_3d.lras_3d.config.LRAS7B_Patch8_RGBConfig",
        "model_type": "lras_3d.utils.model_wrapper.WrappedModel",
        "model_class": "lras_3d.lras_3d.model.LRAS",
    },
    "quantizer": {
        "config_class": "lras_3d.local_patch_quantizer.config.LPQConfig",
        "model_type": "lras_3d.utils.model_wrapper.WrappedModel",
        "model_class": "lras_3d.local_patch_quantizer.model.LPQ",
    },
}


def export(path: str | Path, out: str | Path, kind: Kind | None = None) -> Path:
    """Write the predictor or the quantizer of a model as one published checkpoint file.

    ``kind`` says which (None: the predictor where there is one). Weights go to disk one at a time
    and keep their dtype. A cfg that came with a published file is given back with every value;
    sequences are tuples again, those of sequences lists, as published files have them.

    Raises:
        FileNotFoundError: nothing at ``path``.
        ValueError: no such part, a network that the published layout cannot hold, ``out`` is a
            folder or inside a file, or no room.
    """
    out = Path(out)
    _check_out(out)
    about, weights = read(path)
    kind = kind or ("predictor" if "predictor" in about else "quantizer")
    if kind not in about:
        raise ValueError(f"{path} holds no {kind}; export its other part, or name another model.")
    own = part_of(weights, f"{kind}.")
    kept = about.get("note", {}).get("official", {}).get(kind)
    if kind == "predictor":
        cfg = kept or _predictor_cfg(about["predictor"], path)
        predictor_config(cfg)
        tensors = dict(_predictor_tensors(own, cfg["n_layer"], path))
    else:
        cfg = kept or _quantizer_cfg(about["quantizer"], path)
        quantizer_config(cfg)
        tensors = dict(_quantizer_tensors(own, cfg["vocab_size"].bit_length() - 1))
    cfg = {key: _as_published(value) for key, value in cfg.items()}
    joined = {
        name: parts[0] if len(parts) == 1 else torch.cat([part.to("meta") for part in parts])
        for name, parts in tensors.items()
    }
    check_weights(kind, cfg, joined)

    def fill(name: str, into: Tensor) -> None:
        torch.cat(list(tensors[name]), out=into)

    return write_official(out, cfg, joined, fill)


def write_official(
    out: str | Path,
    cfg: Mapping[str, Any],
    like: Mapping[str, Tensor],
    fill: Callable[[str, Tensor], object],
) -> Path:
    """Write ``{"cfg", "weights"}`` as ``torch.save`` would, holding no weights in memory.

    The file is laid out first, with holes of the shapes and dtypes of ``like`` (meta tensors will
    do); then ``fill(name, into)`` writes each tensor into the mapped file, and the checksums of
    all follow. A file at ``out`` is replaced when all is on disk; what fails leaves nothing.

    Raises:
        ValueError: ``out`` is a folder or inside a file, or there is not enough room.
    """
    out = Path(out)
    _check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    check_room(out.parent, sum(value.nbytes for value in like.values()))
    with FakeTensorMode():
        empty = {name: torch.empty(value.shape, dtype=value.dtype) for name, value in like.items()}
    partial = out.with_name(out.name + ".partial")
    try:
        with torch.serialization.skip_data(materialize_fake_tensors=True):
            torch.save({"cfg": dict(cfg), "weights": empty}, partial)
        with torch.serialization.set_default_mmap_options(mmap.MAP_SHARED):
            mapped = torch.load(partial, mmap=True, weights_only=True)["weights"]
        for name, into in mapped.items():
            fill(name, into)
        del mapped
        _write_checksums(partial)
        return partial.replace(out)
    finally:
        partial.unlink(missing_ok=True)


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise ValueError(f"{out} is a folder, expected the name of a file to write.")
    for place in out.absolute().parents:
        if place.is_file():
            raise ValueError(f"{place} is a file, so {out} cannot be in it; name another place.")


def _write_checksums(path: Path) -> None:
    """The CRC-32 of every entry of a zip archive: behind its bytes, and in the directory."""
    with zipfile.ZipFile(path) as archive:
        entries, at = archive.infolist(), archive.start_dir
    with open(path, "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as raw, memoryview(raw) as view:
            for entry in entries:  # in the order of the directory
                start = entry.header_offset + 30
                start += sum(struct.unpack_from("<2H", view, start - 4))  # its name and padding
                end = start + entry.file_size
                checksum = struct.pack("<I", zlib.crc32(view[start:end]))
                here = end + 4 if entry.flag_bits & 8 else entry.header_offset + 14
                view[here : here + 4] = checksum
                view[at + 16 : at + 20] = checksum
                at += 46 + sum(struct.unpack_from("<3H", view, at + 28))
            raw.flush()
        os.fsync(file.fileno())


def _predictor_tensors(
    ours: Mapping[str, Tensor], num_layers: int, path: str | Path
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    layers = {name.split(".")[1] for name in ours if name.startswith("blocks.")}
    if num_layers != len(layers):
        raise ValueError(
            f"the config at {path} promises {num_layers} layers, but there are weights of "
            f"{len(layers)}; write the export again."
        )
    for theirs, names in official_names(num_layers).items():
        missing = [name for name in names if name not in ours]
        if missing:
            raise ValueError(f"{path} holds no {missing[0]}; write the export again.")
        yield theirs, tuple(ours[name] for name in names)


def _quantizer_tensors(
    ours: Mapping[str, Tensor], bits: int
) -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    for name, value in ours.items():
        yield (f"quantizer.{name}" if name.startswith("project") else name), (value,)
    yield QUANTIZER_MASK, (2 ** torch.arange(bits - 1, -1, -1),)


def _predictor_cfg(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The published cfg of a predictor that was trained here."""
    cfg = PredictorConfig.from_plain(values)
    sizes = ("image_size", "patch_px", "code_px", "num_codes", "dim", "num_heads", "num_layers")
    tables = ("vocab_size", "num_places", "ranges")
    wanted = asdict(PredictorConfig.official(**{name: values[name] for name in sizes}))
    other = [
        f"{name}={value}"
        for name, value in values.items()
        if name not in tables and value != wanted[name]
    ]
    if other:
        raise ValueError(
            f"{path} cannot be written in the published layout: it has {', '.join(other)}; only "
            "models of the official preset can (model=official_1b, official_7b)."
        )
    ranges = cfg.ranges or _plain_ranges(cfg)
    given = {RANGES[name]: pair for name, pair in asdict(ranges).items() if pair is not None}
    return {
        **_CLASSES["predictor"],
        "block_size": cfg.num_slots,
        "vocab_size": cfg.num_tokens,
        "n_layer": cfg.num_layers,
        "n_head": cfg.num_heads,
        "n_embd": cfg.dim,
        "patch_size": cfg.grid.side,
        "dropout": 0.0,
        "bias": False,
        **given,
    }


def _plain_ranges(cfg: PredictorConfig) -> TokenRanges:
    """Where a model trained here keeps its tokens: one range after the other."""
    vocab, places = cfg.vocab(cfg.grid), cfg.num_slots // 2
    return TokenRanges(
        contents=(0, vocab.pointers0),
        pointers0=(vocab.pointers0, vocab.pointers1),
        pointers1=(vocab.pointers1, vocab.size),
        places0=(0, places),
        places1=(places, 2 * places),
    )


def _quantizer_cfg(values: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    if "decoder_blocks" not in values:
        raise ValueError(
            f"{path} cannot be written in the published layout: its quantizer is a "
            f"{values['bottleneck']} one of our own; only the published network (LPQ) can."
        )
    cfg = asdict(LPQConfig(**values))
    sizes = {theirs: cfg[ours] for ours, theirs in QUANTIZER_SIZES.items()}
    one = {"dropout": 0.1, "num_codebooks": 1, "num_out_channels": cfg["channels"]}
    return _CLASSES["quantizer"] | sizes | one


def _as_published(value: Any) -> Any:
    """JSON turned tuples into lists; a published cfg has tuples, and lists of tuples."""
    if isinstance(value, dict):
        return {key: _as_published(item) for key, item in value.items()}
    if not isinstance(value, list | tuple):
        return value
    nested = any(isinstance(item, list | tuple) for item in value)
    return [_as_published(item) for item in value] if nested else tuple(value)
