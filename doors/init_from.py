"""``init_from=``: a warm start from another model, across image size, grid and vocabulary.

What has the same meaning in both models is copied. Rows of a table that belong to places are
resized over the grid of patches; rows that belong to codes are copied only behind the very same
quantizer, since the code 17 of another one is another thing.
"""

import logging
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lras.config import PredictorConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor

log = logging.getLogger("train")

OTHER_CODES = "its codes are those of another quantizer"
Taken = tuple[Tensor | None, str]  # the new value (None: keep the fresh one), and how or why


@dataclass
class WarmStart:
    """Names of the tensors that were loaded as they are, resized, or left fresh, with reasons."""

    loaded: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    fresh: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)  # of the source, without a place here
    num_loaded: int = 0  # parameters, the resized ones too
    num_parameters: int = 0  # of the whole predictor

    def report(self, source: str) -> None:
        """Say all of it in the log."""
        share = self.num_loaded / self.num_parameters
        log.info("init_from=%s: %.1f %% of the predictor's parameters loaded", source, 100 * share)
        for name, how in self.resized.items():
            log.info("init_from: %s %s", name, how)
        for name, reason in self.fresh.items():
            log.info("init_from: %s starts afresh: %s", name, reason)
        if self.unused:
            named = ", ".join(self.unused[:3]) + (", ..." if len(self.unused) > 3 else "")
            log.info("init_from: no place here for %d tensors: %s", len(self.unused), named)


def warm_start(predictor: FramePredictor, source: NextFrame, same_codes: bool) -> WarmStart:
    """Copy what fits of ``source`` into ``predictor``, in place.

    ``same_codes``: the predictor will stand behind a quantizer with the source's fingerprint.

    Raises:
        ValueError: no matrix of any block fits.
    """
    given, done = source.predictor.state_dict(), WarmStart()
    own = dict(predictor.named_parameters())  # code_pixels, a buffer, comes from the quantizer
    new, old = predictor.cfg, source.predictor.cfg
    done.unused = [name for name in given if name not in own and name != "code_pixels"]
    for name, value in own.items():
        done.num_parameters += value.numel()
        taken, how = _take(name, value, given.get(name), new, old, same_codes)
        if taken is None:
            done.fresh[name] = how
            continue
        value.data.copy_(taken)
        done.num_loaded += value.numel()
        if how:
            done.resized[name] = how
        else:
            done.loaded.append(name)
    matrices = [name for name in done.loaded if name.startswith("blocks.") and own[name].ndim == 2]
    if not matrices:
        raise ValueError(
            f"init_from has no block that fits: dim={old.dim} num_heads={old.num_heads} "
            f"mlp_ratio={old.mlp_ratio} there, dim={new.dim} num_heads={new.num_heads} "
            f"mlp_ratio={new.mlp_ratio} here; use the same widths, or init_from=null."
        )
    return done


def _take(
    name: str,
    own: Tensor,
    given: Tensor | None,
    new: PredictorConfig,
    old: PredictorConfig,
    same_codes: bool,
) -> Taken:
    """The new value of one parameter, or None; and how it was made, or why it was not."""
    if given is None:
        return None, "there is no such tensor there"
    if given.ndim != own.ndim or given.shape[1:] != own.shape[1:]:
        return None, f"its shape is {_by(given)} there and {_by(own)} here"
    if name.startswith("blocks.") and new.num_heads != old.num_heads:
        return None, f"num_heads is {old.num_heads} there and {new.num_heads} here"
    if name in ("token_table.weight", "head.weight"):
        return _take_codes(own, given, new, old, same_codes)
    if name == "place_table.weight":
        return _take_places(own, given, new, old)
    if given.shape != own.shape:
        return None, f"its shape is {_by(given)} there and {_by(own)} here"
    return given, ""


def _take_codes(
    own: Tensor, given: Tensor, new: PredictorConfig, old: PredictorConfig, same: bool
) -> Taken:
    """A table with a row per code and, with slot positions, per pointer of either frame."""
    if not same:
        return None, OTHER_CODES
    if new.positions != old.positions:
        return None, f"positions={old.positions} there and {new.positions} here"
    if new.num_codes != old.num_codes:
        return None, f"num_codes is {old.num_codes} there and {new.num_codes} here"
    codes = slice(0, new.num_codes)
    before, after = ([codes, *_pointer_rows(cfg)] for cfg in (old, new))
    return _take_rows(own, given, before, after, new, old)


def _take_places(own: Tensor, given: Tensor, new: PredictorConfig, old: PredictorConfig) -> Taken:
    """A row per frame and slot; with slot positions per frame, patch and slot."""
    if new.positions != old.positions:
        return None, f"positions={old.positions} there and {new.positions} here"
    if new.codes_per_patch != old.codes_per_patch:
        return None, f"a patch has {old.codes_per_patch} codes there, {new.codes_per_patch} here"
    return _take_rows(own, given, _place_rows(old), _place_rows(new), new, old)


def _take_rows(
    own: Tensor,
    given: Tensor,
    before: list[slice],
    after: list[slice],
    new: PredictorConfig,
    old: PredictorConfig,
) -> Taken:
    """The rows ``before`` of ``given``, put where they stand ``after``; the last two are frames 0
    and 1, over the grid of patches. Rows of other things (flow, poses) have no meaning here.
    """
    if new.positions == "rotary" or (before, given.shape) == (after, own.shape):
        return given, ""
    *codes, frame0, frame1 = (given[rows] for rows in before)
    frames, how = torch.cat([frame0, frame1]), f"taken from {len(given)} rows, those of two frames"
    if new.grid.num_patches != old.grid.num_patches:
        frames, how = _resize(frames, old, new), _resized(old, new)
    parts = [*codes, *frames.chunk(2)]
    known = sum(map(len, parts))
    if known != len(own):
        return None, f"it has {len(own)} rows here, and two frames there give {known}"
    taken = torch.empty_like(own)
    for rows, part in zip(after, parts, strict=True):
        taken[rows] = part.to(own)
    return taken, how


def _pointer_rows(cfg: PredictorConfig) -> list[slice]:
    """Where the token table has the pointers of frame 0 and of frame 1, with slots."""
    many, vocab = cfg.grid.num_patches, cfg.vocab(cfg.grid)
    return [slice(base, base + many) for base in map(vocab.pointer_base, (0, 1))]


def _place_rows(cfg: PredictorConfig) -> list[slice]:
    """Where a slot model's table has the places of frame 0 and of frame 1."""
    many = cfg.grid.num_patches * (1 + cfg.codes_per_patch)
    ranges = cfg.ranges
    starts = (0, many) if ranges is None else (ranges.places0[0], ranges.places1[0])
    return [slice(start, start + many) for start in starts]


def _resize(
    rows: Float[Tensor, "places dim"], old: PredictorConfig, new: PredictorConfig
) -> Float[Tensor, "new_places dim"]:
    """Rows of (frame, patch, slot), bicubic over the grid of patches."""
    height, width = old.grid.rows, old.grid.cols
    maps = rearrange(rows, "(f r c s) d -> f (s d) r c", f=2, r=height, c=width)
    size = (new.grid.rows, new.grid.cols)
    resized = F.interpolate(maps.float(), size=size, mode="bicubic", align_corners=False)
    return rearrange(resized, "f (s d) r c -> (f r c s) d", d=rows.shape[1]).to(rows.dtype)


def _resized(old: PredictorConfig, new: PredictorConfig) -> str:
    before, after = (f"{cfg.grid.rows}x{cfg.grid.cols}" for cfg in (old, new))
    return f"resized from {before} to {after} patches"


def _by(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape)
