"""What is known of a validation set at its end: sums over every sample once, then their ratios.

Torchmetrics that only add up; nothing is averaged per batch or per rank, and ranks meet once, in
``compute``, so they may hold different numbers of batches.
"""

import zlib
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio, StructuralSimilarityIndexMeasure

from lras.code_baselines import copy_nats, perplexity, unigram_nats
from lras.perceptual import PerceptualDistance
from lras.sequence import random_orders

REVEALED_PERCENT = (0, 10, 25, 50, 75, 100)  # bins of the share of frame 1 already given
MAX_GAP = 64  # frames; longer gaps share the last bin


class NatsPerCode(Metric):
    """Nats per code of frame 1: in all, by share of frame 1 already given, by gap, by slot.

    ``compute`` gives ``nats_per_code``; ``nats_per_code_first_quarter`` and ``_last_quarter``, of
    the patches in the order they are predicted; ``nats_revealed_<from>_<to>`` in percent, from <=
    share < to; ``nats_gap_<frames>``; ``nats_slot_<index>`` where a patch holds several codes.
    What no code fell into is left out.
    """

    full_state_update = False
    by_revealed: Tensor
    by_gap: Tensor
    by_slot: Tensor

    def __init__(self, codes_per_patch: int) -> None:
        super().__init__()
        sizes = {"revealed": len(REVEALED_PERCENT) - 1, "gap": MAX_GAP + 1, "slot": codes_per_patch}
        for name, size in sizes.items():  # rows: sum of nats, number of codes
            zeros = torch.zeros(2, size, dtype=torch.float64)
            self.add_state(f"by_{name}", zeros, dist_reduce_fx="sum")

    def update(
        self, nats: Float[Tensor, "batch patches codes"], gap: Int[Tensor, " batch"]
    ) -> None:
        """``nats`` of all patches in the order they are predicted; ``gap`` in frames."""
        nats = nats.double()
        _, patches, codes = nats.shape
        given = torch.arange(patches, device=nats.device) / patches
        edges = torch.tensor(REVEALED_PERCENT[1:-1], device=nats.device) / 100
        _add(self.by_revealed, nats.transpose(0, 1), torch.bucketize(given, edges, right=True))
        _add(self.by_gap, nats, gap.clamp_max(MAX_GAP))
        _add(self.by_slot, nats.movedim(2, 0), torch.arange(codes, device=nats.device))

    def compute(self) -> dict[str, float]:
        revealed = self.by_revealed
        sums = {
            "nats_per_code": revealed.sum(1),
            "nats_per_code_first_quarter": revealed[:, :2].sum(1),
            "nats_per_code_last_quarter": revealed[:, -1],
        }
        bins = zip(REVEALED_PERCENT[:-1], REVEALED_PERCENT[1:], revealed.T, strict=True)
        sums |= {f"nats_revealed_{low:02d}_{high:02d}": total for low, high, total in bins}
        sums |= {f"nats_gap_{gap}": total for gap, total in enumerate(self.by_gap.T)}
        if self.by_slot.shape[1] > 1:
            sums |= {f"nats_slot_{slot}": total for slot, total in enumerate(self.by_slot.T)}
        return {name: (nats / count).item() for name, (nats, count) in sums.items() if count}


def _add(sums: Tensor, values: Float[Tensor, "n ..."], group: Int[Tensor, " n"]) -> None:
    """Add the sum and number of each row's values to its group's column, in place."""
    rows = values.flatten(1)
    counts = torch.full_like(rows[:, 0], rows.shape[1])
    sums.index_add_(1, group, torch.stack([rows.sum(1), counts]))


class CodeUse(Metric):
    """``codes_used``, the share of the codebook that occurs, and ``code_perplexity``.

    Where the number of codes is a power of two also ``bit_balance``: how evenly the worst bit is
    spent, 1 = half of the codes have it, 0 = it never changes. With several ``levels`` of residual
    codes, each of which owns as many consecutive ids, all of it for each of them as well
    (``codes_used_level_0`` is of the coarse codes).
    """

    full_state_update = False
    counts: Tensor

    def __init__(self, num_codes: int, levels: int = 1) -> None:
        super().__init__()
        self.levels = levels
        self.add_state("counts", _empty_histogram(num_codes), dist_reduce_fx="sum")

    def update(self, codes: Int[Tensor, "*n"]) -> None:
        self.counts += _histogram(codes, self.counts)

    def compute(self) -> dict[str, float]:
        found = _use_of(self.counts)
        if self.levels > 1:
            for level, counts in enumerate(self.counts.chunk(self.levels)):
                found |= {f"{name}_level_{level}": v for name, v in _use_of(counts).items()}
        return found


def _use_of(counts: Int[Tensor, " vocab"]) -> dict[str, float]:
    used = (counts > 0).double().mean().item()
    found = {"codes_used": used, "code_perplexity": perplexity(counts)}
    if len(counts).bit_count() == 1 and len(counts) > 1:
        found["bit_balance"] = bit_balance(counts)
    return found


def bit_balance(counts: Int[Tensor, " vocab"]) -> float:
    """Twice the share of the rarer value of the worst-balanced bit, over codes that occurred."""
    bits = len(counts).bit_length() - 1
    index = torch.arange(len(counts), device=counts.device)
    is_set = (index[:, None] >> torch.arange(bits, device=counts.device)) % 2
    share = (counts.double()[:, None] * is_set).sum(0) / counts.sum().clamp_min(1)
    return 2 * torch.minimum(share, 1 - share).min().item()


class CodeBaselines(Metric):
    """``nats_unigram`` and ``nats_copy`` of the codes of frame 1; see ``lras.code_baselines``."""

    full_state_update = False
    frame0: Tensor
    frame1: Tensor
    same: Tensor

    def __init__(self, num_codes: int) -> None:
        super().__init__()
        for name in ("frame0", "frame1", "same"):
            self.add_state(name, _empty_histogram(num_codes), dist_reduce_fx="sum")

    def update(self, codes0: Int[Tensor, "*n"], codes1: Int[Tensor, "*n"]) -> None:
        self.frame0 += _histogram(codes0, self.frame0)
        self.frame1 += _histogram(codes1, self.frame1)
        self.same += _histogram(codes1[codes1 == codes0], self.same)

    def compute(self) -> dict[str, float]:
        return {
            "nats_unigram": unigram_nats(self.frame0, self.frame1),
            "nats_copy": copy_nats(self.frame0, self.frame1, self.same),
        }


def _empty_histogram(num_codes: int) -> Int[Tensor, " vocab"]:
    return torch.zeros(num_codes, dtype=torch.long)


def _histogram(codes: Int[Tensor, "*n"], like: Int[Tensor, " vocab"]) -> Int[Tensor, " vocab"]:
    return torch.bincount(codes.flatten(), minlength=len(like))


class QuantizerQuality(nn.Module):
    """PSNR (dB, of the mean squared error of all frames in [0, 1]), SSIM, use of the codebook.

    With several ``levels`` of residual codes also the PSNR of what the first of them paint; with
    ``lpips`` the perceptual distance.
    """

    def __init__(self, num_codes: int, levels: int = 1, lpips: bool = False) -> None:
        super().__init__()
        self.psnr, *coarse = (_psnr() for _ in range(levels))
        self.coarse = nn.ModuleList(coarse)
        self.ssim = StructuralSimilarityIndexMeasure(data_range=1.0)
        self.lpips = PerceptualDistance() if lpips else None
        self.use = CodeUse(num_codes, levels)

    def update(
        self,
        frames: Float[Tensor, "batch 3 height width"],
        decoded: Float[Tensor, "batch 3 height width"],
        codes: Int[Tensor, "batch rows cols"],
        coarse: Sequence[Float[Tensor, "batch 3 height width"]] = (),
    ) -> None:
        """``coarse``: what the first 1, 2, ... levels paint, all but the last."""
        self.psnr.update(decoded, frames)
        for metric, painted in zip(self.coarse, coarse, strict=True):
            metric.update(painted, frames)
        if len(frames):  # a rank may hold nothing but padding
            self.ssim.update(decoded, frames)
            if self.lpips is not None:
                self.lpips.update(frames, decoded)
        self.use.update(codes)

    def compute(self) -> dict[str, float]:
        """``codes_used``, ``code_perplexity``, ``bit_balance``; of frames ``psnr_db``, ``ssim``,
        ``lpips`` and, of the first N residual codes, ``psnr_db_first_N``.
        """
        use = self.use.compute()
        if not self.psnr.update_called:  # only codes were seen, on this rank as on all
            return use
        quality = {"psnr_db": self.psnr, "ssim": self.ssim}
        quality |= {f"psnr_db_first_{n}": metric for n, metric in enumerate(self.coarse, start=1)}
        quality |= {"lpips": self.lpips} if self.lpips is not None else {}
        return {name: metric.compute().item() for name, metric in quality.items()} | use

    def reset(self) -> None:
        for metric in (self.psnr, *self.coarse, self.ssim, self.use):
            metric.reset()
        if self.lpips is not None:
            self.lpips.reset()


def _psnr() -> PeakSignalNoiseRatio:
    return PeakSignalNoiseRatio(data_range=1.0).set_dtype(torch.float64)


class HeldOut(nn.Module):
    """All of it for a predictor: nats per code, baselines of the same codes, the quantizer."""

    def __init__(self, num_codes: int, codes_per_patch: int) -> None:
        super().__init__()
        self.nats = NatsPerCode(codes_per_patch)
        self.baselines = CodeBaselines(num_codes)
        self.quantizer = QuantizerQuality(num_codes)

    def update(
        self,
        nats: Float[Tensor, "batch patches codes"],
        gap: Int[Tensor, " batch"],
        codes0: Int[Tensor, "batch patches codes"],
        codes1: Int[Tensor, "batch patches codes"],
    ) -> None:
        """Codes by place in the image, ``nats`` in the order of prediction."""
        self.nats.update(nats, gap)
        self.baselines.update(codes0, codes1)

    def compute(self) -> dict[str, float]:
        quality = self.quantizer.compute()
        for name in ("psnr_db", "ssim"):
            if name in quality:
                quality[f"quantizer_{name}"] = quality.pop(name)
        return self.nats.compute() | self.baselines.compute() | quality

    def reset(self) -> None:
        self.nats.reset()
        self.baselines.reset()
        self.quantizer.reset()


def counted(batch: dict, values: Tensor) -> Tensor:
    """The rows of real samples; those whose ``weight`` is 0 only fill up a batch."""
    return values[batch["weight"] > 0] if "weight" in batch else values


def held_out_orders(
    keys: list[str], num_patches: int, seed: int
) -> tuple[Int[Tensor, "batch patches"], Int[Tensor, "batch patches"]]:
    """Orders of frames 0 and 1 that depend on (key, seed) alone, not on batch, rank or step."""
    both = []
    for key in keys:
        generator = torch.Generator().manual_seed(zlib.crc32(f"held-out/{seed}/{key}".encode()))
        both.append(random_orders(2, num_patches, generator))
    order0, order1 = torch.stack(both, dim=1)
    return order0, order1
