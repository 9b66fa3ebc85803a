"""What the clean and the perturbed branch of a block of queries have read, shared where it can be.

The sequence of a branch is: frame 0 without the patches that tracers change (the prefix), these
patches (the tail), the revealed patches of frame 1. The prefix is one for all; of the rest
``cfg.revealed`` says what is:

    after   prefix | tail, revealed          every branch reads both: the model's own order
    before  prefix, revealed | tail          the tail sees the revealed patches, not the reverse
    clean   prefix | tail | (revealed)       both branches use the clean branch's revealed patches
"""

from typing import Any, Literal, NamedTuple

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig
from tracing.protocol import ForkingModel
from tracing.reveal import Masks

Keep = Literal["no", "tails", "forks"]


class Block(NamedTuple):
    """Groups of one shape that are traced together: see ``layout.Group``."""

    pair: Int[Tensor, " groups"]
    points: Int[Tensor, "groups queries"]
    rest: Int[Tensor, "groups kept"]
    tail: Int[Tensor, "groups changed"]


class Question(NamedTuple):
    """All that is asked about a batch of frame pairs, in codes."""

    codes0: Int[Tensor, "batch code_rows code_cols"]
    codes1: Int[Tensor, "batch code_rows code_cols"]
    planted: Int[Tensor, "batch points code_rows code_cols"]
    may_win: Bool[Tensor, "batch points patches"]  # before any reveal mask
    masks: Masks  # of every pair
    grid: PatchGrid
    max_tokens: int  # that may be in flight

    @property
    def num_revealed(self) -> int:
        """Patches that each mask reveals."""
        return int(self.masks.reveal[0, 0].sum())


class Reading:
    """The branches of one block. Rows of forks: group by group, a group's queries in a row.

    ``keep`` says what of the forks is read once: their tails, all of them until ``forget_forks``,
    or nothing. The prefix and the clean branch are always kept.
    """

    def __init__(
        self,
        model: ForkingModel,
        cfg: TracerConfig,
        question: Question,
        block: Block,
        keep: Keep,
    ) -> None:
        self.model, self.cfg, self.question, self.block = model, cfg, question, block
        self.codes0, self.codes1 = question.codes0[block.pair], question.codes1[block.pair]
        self.prefix = model.extend(None, self.codes0, block.rest, 0)
        self.keep = keep
        self._kept: dict[tuple, Any] = {}

    def clean(self, mask: int) -> Any:
        """All that the clean branch reads under a mask, one row for each group."""
        return self._once(("clean", mask), self._read_clean, mask)

    def fork(self, mask: int, chunk: Int[Tensor, " chunk"]) -> Any:
        """All that the perturbed branches of some queries of every group read under a mask."""
        if self.keep == "forks":
            return self._once(("fork", mask, int(chunk[0])), self._fork, mask, chunk)
        return self._fork(mask, chunk)

    def forget_forks(self) -> None:
        """Let go of the forks that are kept."""
        gone = ("fork", "tails") if self.keep == "forks" else ()
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] not in gone}

    def _fork(self, mask: int, chunk: Int[Tensor, " chunk"]) -> Any:
        if self.cfg.revealed == "before":
            return self._tails(self._before_tail(mask), chunk)
        if self.keep == "no":
            tails = self._tails(self.prefix, chunk)
        else:
            tails = self._once(("tails", int(chunk[0])), self._tails, self.prefix, chunk)
        if self.cfg.revealed == "clean":
            return tails + self.clean(mask).since(self._once(("tail",), self._clean_tail))
        return self._reveal(tails, mask, len(chunk))

    def ask(
        self, given: Any, patches: Int[Tensor, "rows asked"], each: int = 1
    ) -> Float[Tensor, "rows asked read vocab"]:
        """Logits of patches, ``each`` consecutive rows belonging to one group."""
        codes1 = self.codes1.repeat_interleave(each, 0)
        return self.model.read(given, codes1, patches, self.cfg.read_out)

    def _once(self, key: tuple, make: Any, *given: Any) -> Any:
        if key not in self._kept:
            self._kept[key] = make(*given)
        return self._kept[key]

    def _read_clean(self, mask: int) -> Any:
        if self.cfg.revealed == "before":
            return self.model.extend(self._before_tail(mask), self.codes0, self.block.tail, 0)
        return self._reveal(self._once(("tail",), self._clean_tail), mask, 1)

    def _clean_tail(self) -> Any:
        return self.model.extend(self.prefix, self.codes0, self.block.tail, 0)

    def _before_tail(self, mask: int) -> Any:
        return self._once(("before", mask), self._reveal, self.prefix, mask, 1)

    def _tails(self, given: Any, chunk: Int[Tensor, " chunk"]) -> Any:
        codes = self.question.planted[self.block.pair[:, None], self.block.points[:, chunk]]
        tail = repeat(self.block.tail, "g t -> (g q) t", q=len(chunk))
        return self.model.extend(given, codes.flatten(0, 1), tail, 0)

    def _reveal(self, given: Any, mask: int, each: int) -> Any:
        masks, pairs = self.question.masks, self.block.pair
        order, reveal = masks.order1[pairs, mask], masks.reveal[pairs, mask]
        shown = order[reveal.gather(1, order)].view(len(pairs), -1)
        codes1, shown = self.codes1.repeat_interleave(each, 0), shown.repeat_interleave(each, 0)
        return self.model.extend(given, codes1, shown, 1)


class CleanLogits:
    """The clean prediction of some patches of every group, under one mask."""

    def __init__(self, reading: Reading, mask: int, wanted: Bool[Tensor, "groups patches"]) -> None:
        patches, _ = padded_indices(wanted)
        self._logits = reading.ask(reading.clean(mask), patches)
        self._place = torch.zeros_like(wanted, dtype=torch.long)
        place = torch.arange(patches.shape[1], device=patches.device).expand_as(patches)
        # subtle: padding repeats a row's last patch, so several places may be written; all hold it
        self._place.scatter_(1, patches, place)

    def num_patches(self, numbers: int) -> int:
        """Patches of which so many numbers are the logits; at least one."""
        return max(1, numbers // self._logits[0, 0].numel())

    def of(self, group: int, patches: Int[Tensor, " n"]) -> Float[Tensor, "n read vocab"]:
        """Logits of patches that were wanted in this group."""
        place, logits = self._place[group, patches], self._logits[group]
        whole = len(place) == len(logits) and bool((place[1:] > place[:-1]).all())
        return logits if whole else logits[place]


def padded_indices(
    wanted: Bool[Tensor, "rows patches"],
) -> tuple[Int[Tensor, "rows most"], Bool[Tensor, "rows most"]]:
    """Patches wanted in each row, ascending, and which entries are not mere padding.

    Rows with fewer than the most are padded with their last patch (0 if they have none).
    """
    count = wanted.sum(1)
    most = int(count.max()) if len(count) else 0
    if not most:
        return count.new_empty(len(count), 0), wanted.new_empty(len(count), 0)
    ranked = (~wanted).long().argsort(dim=1, stable=True)[:, :most]
    real = torch.arange(most, device=wanted.device) < count[:, None]
    last = ranked.gather(1, (count[:, None] - 1).clamp_min(0))
    return torch.where(real, ranked, last), real
