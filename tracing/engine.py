"""The fast KL tracer: what the two predictions and many queries have in common is read once.

Causality makes most of KL-tracing's work shared. With the patches that tracers change at the end
of frame 0's order, all that stands before them is read once for a group of queries and for all
reveal masks; the clean prediction is made once for a group; a query reads the changed patches, the
revealed ones, and asks. The answers are those of ``trace.trace_points``, which reads everything
every time.

Options save more. ``revealed="before"`` and ``"clean"`` share the revealed patches too, which then
do not see the tracer. ``search="coarse_to_fine"`` and ``window_px`` ask fewer patches.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from tracing.config import TracerConfig, Traces
from tracing.inputs import check_question
from tracing.kl import kl_map
from tracing.layout import Group, make_groups
from tracing.occlusion import is_visible
from tracing.planting import plant
from tracing.protocol import ForkingModel
from tracing.reading import Block, CleanLogits, Question, Reading, padded_indices
from tracing.readout import answer, patches_to_map, to_map
from tracing.reveal import masks_of_pairs
from tracing.search import SEARCHES, within_window
from tracing.two_branch import Control, random_points

AROUND = 36  # patches that a search asks round its peaks, about
LOGITS = 2**24  # numbers; logits of a parallel read-out that are held at a time

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How tracing is cut into pieces. ``max_tokens`` changes no answer; ``max_group`` says who
    shares a prefix, hence how frame 0 is laid out.
    """

    max_tokens: int | None = None  # tokens in flight: held, or being read; None: see max_tokens_on
    max_group: int = 64  # queries that share a prefix, at most; fewer where that is cheaper

    def __post_init__(self) -> None:
        if self.max_group < 1 or (self.max_tokens is not None and self.max_tokens < 1):
            raise ValueError(
                f"max_tokens={self.max_tokens} and max_group={self.max_group}; both must be at "
                "least 1 (try null and 64)."
            )

    def max_tokens_on(self, device: torch.device, token_bytes: int) -> int:
        """The bound there, unless given: few on a CPU, where what is small stays in its cache; on
        CUDA what half of the free memory holds, ``token_bytes`` each.
        """
        if self.max_tokens is not None or device.type != "cuda":
            return self.max_tokens or 2**14
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        free = torch.cuda.mem_get_info(device)[0] + unused
        return min(2**17, free // 2 // token_bytes)


class KLEngine:
    """KL-tracing with shared prefixes; called like ``KLTracer``, for models that fork.

    ``control`` is that of ``TwoBranchTracer``. Where memory runs out, the batch is halved for good.

    Source:
        Kim et al. 2025, arXiv:2507.09082; the shared prefix is ours.
    """

    name = "kl"
    needs_model = True

    def __init__(
        self,
        model: ForkingModel,
        cfg: TracerConfig | None = None,
        engine: EngineConfig | None = None,
        control: Control = "none",
    ) -> None:
        self.model, self.cfg = model, cfg or TracerConfig()
        self.engine, self.control = engine or EngineConfig(), control
        self.max_rows: int | None = None  # forks of a group and groups read at a time,
        self.max_groups: int | None = None  # once memory has run out
        if not model.forks or self.cfg.order0 == "random":
            raise ValueError(
                f"the engine needs a model that forks and order0=changed_last, got forks="
                f"{model.forks} and order0={self.cfg.order0}; use KLTracer."
            )
        if control != "none":
            self.name = f"{self.name}_{control}"

    @torch.no_grad()
    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
        keep_hidden: Bool[Tensor, "batch patches"] | None = None,
        near: Float[Tensor, "batch points 2"] | None = None,
    ) -> Traces:
        """Trace; ``keep_hidden`` and ``near`` are those of ``TwoBranchTracer``."""
        check_question(frame0, frame1, points)
        cfg, grid = self.cfg, self._grid(frame0)
        masks = masks_of_pairs(
            len(frame0), grid.num_patches, cfg.num_masks, cfg.reveal_ratio, seed, keep_hidden
        ).to(frame0.device)
        where = points
        if self.control == "random_point":
            where = random_points(points, grid.height, grid.width, seed)
        codes0, codes1 = self.model.encode(frame0), self.model.encode(frame1)
        planted = plant(self.model, frame0, codes0, where, cfg)
        may_win = within_window(points if near is None else near, grid, cfg.window_px)
        bound = self.engine.max_tokens_on(frame0.device, self.model.token_bytes)
        asked = Question(codes0, codes1, planted.codes, may_win, masks, grid, bound)
        maps, looked = self._maps(asked)
        hidden = patches_to_map((~masks.reveal).any(1), grid, cfg)[:, None]
        xy, peak = answer(maps, looked & hidden, points, grid, cfg)
        return Traces(
            xy=xy,
            visible=is_visible(peak, cfg.occlusion_threshold),
            peak_kl=peak,
            maps=maps,
            flipped_codes=planted.flipped,
            attempt=planted.attempt,
            never_hidden=masks.reveal.all(1),
        )

    # --- who is traced together -----------------------------------------------------------------

    def layout(self, question: Question) -> list[tuple[int, Group]]:
        """The groups of every pair; a query that changes nothing is in none."""
        grid = question.grid
        before = grid.to_patches(question.codes0)[:, None]
        changed = (grid.to_patches(question.planted) != before).any(-1)
        groups, most = [], self.engine.max_group
        for pair in range(len(changed)):
            order0 = question.masks.order0[pair, 0]
            own = make_groups(changed[pair], order0, grid, question.num_revealed, most)
            groups += [(pair, group) for group in own]
        return groups

    def _blocks(self, question: Question) -> Iterator[Block]:
        """Groups of one shape, as many as the bound on tokens lets stand side by side.

        Raises:
            ValueError: the bound is too small for one query of some group.
        """
        shapes: dict[tuple[int, int], list[tuple[int, Group]]] = {}
        for pair, group in self.layout(question):
            shapes.setdefault((len(group.points), len(group.tail)), []).append((pair, group))
        tokens = {shape: self._tokens(question, shape[1]) for shape in shapes}
        check_bound(question.max_tokens, max(map(sum, tokens.values()), default=0), question.grid)
        for shape, groups in shapes.items():
            held, fork = tokens[shape]
            together = max(1, question.max_tokens // (held + shape[0] * fork))
            while groups:  # less may fit by the time that the next block is asked for
                together = min(together, self.max_groups or together)
                part, groups = groups[:together], groups[together:]
                pairs = question.codes0.new_tensor([pair for pair, _ in part])
                fields = (torch.stack([group[i] for _, group in part]) for i in range(3))
                yield Block(pairs, *fields)

    def _tokens(self, question: Question, changed: int) -> tuple[int, int]:
        return self.tokens(question.grid, question.num_revealed, changed)

    def tokens(self, grid: PatchGrid, revealed: int, changed: int) -> tuple[int, int]:
        """Tokens that a group holds whatever is read, and those of a fork that is being read.

        ``changed`` is the length of its tail in patches.
        """
        codes, asked = grid.codes_per_patch, grid.num_patches - revealed
        tail, shown = changed * (1 + codes), revealed * (1 + codes)
        masks, kind = self.cfg.num_masks, self.cfg.revealed
        held = grid.num_patches * (1 + codes) + masks * shown
        if kind == "before":
            held += masks * tail  # the clean tail under every mask
        in_rounds = self.cfg.search != "full"
        every = masks if in_rounds else 1  # masks whose forks are held at a time
        own = {"after": tail + every * shown, "before": every * tail, "clean": tail}[kind]
        if in_rounds:  # about a fourth is asked
            asked = asked // 4 + AROUND
        return held, own + asked * (codes if self.cfg.read_out == "all" else 1)

    # --- tracing a block ------------------------------------------------------------------------

    def _maps(
        self, question: Question
    ) -> tuple[Float[Tensor, "batch points rows cols"], Bool[Tensor, "batch points rows cols"]]:
        """KL maps averaged over the masks that hid each patch, and the positions looked at."""
        batch, points = question.planted.shape[:2]
        grid, size = question.grid, self._map_codes(question.grid)
        shape = (batch, points, grid.num_patches)
        maps = torch.zeros(*shape, size, dtype=torch.float64, device=question.codes0.device)
        looked = torch.zeros(shape, dtype=torch.bool, device=maps.device)
        for block in self._blocks(question):
            found, seen = self._patiently(question, block)
            at = block.pair[:, None], block.points
            maps[at], looked[at] = found, seen
        return self._on_map(maps, grid), patches_to_map(looked, grid, self.cfg)

    def _map_codes(self, grid: PatchGrid) -> int:
        return grid.codes_per_patch if self.cfg.read_out == "all" else 1

    def _on_map(
        self, maps: Float[Tensor, "batch points patches codes"], grid: PatchGrid
    ) -> Float[Tensor, "batch points rows cols"]:
        if self.cfg.read_out == "all":
            return to_map(grid.to_cells(maps), grid, self.cfg)
        return to_map(rearrange(maps, "b n (r c) 1 -> b n r c", r=grid.rows), grid, self.cfg)

    def _patiently(self, question: Question, block: Block) -> tuple[Tensor, Tensor]:
        """``_trace``, again with half the batch whenever memory has run out."""
        while True:
            rows = self._rows_at_a_time(question, block)
            try:
                return self._trace(question, block, rows)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if rows == 1 and len(block.pair) == 1:
                    raise ValueError(
                        "not even one query at a time fits the memory; use smaller frames, "
                        "dtype=bfloat16 or a smaller model."
                    ) from error
                if self.max_rows is None:
                    many = rows * len(block.pair)
                    log.warning("out of memory with %d queries at a time; going on with half", many)
                self.max_rows = max(1, rows // 2)
            if question.codes0.device.type == "cuda":
                torch.cuda.empty_cache()
            if rows == 1:
                self.max_groups = half = len(block.pair) // 2
                parts = [Block(*(f[s] for f in block)) for s in (slice(half), slice(half, None))]
                done = [self._patiently(question, part) for part in parts]
                return torch.cat([d[0] for d in done]), torch.cat([d[1] for d in done])

    def _rows_at_a_time(self, question: Question, block: Block) -> int:
        """Forks of each group that are read side by side."""
        groups, queries = block.points.shape
        held, fork = self._tokens(question, block.tail.shape[1])
        fits = (question.max_tokens // groups - held) // fork
        return max(1, min(queries, fits, self.max_rows or queries))

    def _trace(self, question: Question, block: Block, rows: int) -> tuple[Tensor, Tensor]:
        """A block's maps (groups, queries, patches, codes) and where it looked (... patches).

        Forks are read ``rows`` of each group at a time. Where all is asked at once, the clean
        prediction serves all of them, and their tails are kept for the next mask if they fit; a
        search in rounds goes through few to its end, so that what their forks read can be kept.
        """
        in_rounds = self.cfg.search != "full"
        keep = "forks" if in_rounds else "tails" if self._tails_fit(question, block, rows) else "no"
        reading = Reading(self.model, self.cfg, question, block, keep)
        chunks = torch.arange(block.points.shape[1], device=block.points.device).split(rows)
        parts = []
        for span in [[chunk] for chunk in chunks] if in_rounds else [chunks]:
            parts.append(self._search(reading, span))
            reading.forget_forks()
        maps, looked = zip(*parts, strict=True)
        return torch.cat(maps, 1), torch.cat(looked, 1)

    def _tails_fit(self, question: Question, block: Block, rows: int) -> bool:
        """Whether the tails of all queries can be held besides what ``rows`` forks take."""
        (groups, queries), changed = block.points.shape, block.tail.shape[1]
        held, fork = self._tokens(question, changed)
        spare = question.max_tokens // groups - held - rows * fork
        return spare >= (queries - rows) * changed * (1 + question.grid.codes_per_patch)

    def _search(
        self, reading: Reading, chunks: Sequence[Int[Tensor, " _"]]
    ) -> tuple[Tensor, Tensor]:
        """``_trace`` of the queries in consecutive chunks, which are asked in turn."""
        question, block = reading.question, reading.block
        first, queries = chunks[0][0], torch.cat(list(chunks))
        may_win = question.may_win[block.pair[:, None], block.points[:, queries]]
        hidden = ~question.masks.reveal[block.pair]  # (groups, masks, patches)
        often = hidden.sum(1)[:, None].clamp_min(1)
        codes = self._map_codes(question.grid)
        total = may_win.new_zeros(*may_win.shape, codes, dtype=torch.float64)
        looked = torch.zeros_like(may_win)
        search = SEARCHES[self.cfg.search](may_win & hidden.any(1)[:, None], question.grid)
        while (asked := search.next(total.mean(-1) / often, looked)) is not None:
            for mask in range(self.cfg.num_masks):
                wanted = asked & hidden[:, mask, None]
                if not wanted.any():
                    continue
                clean = CleanLogits(reading, mask, wanted.any(1))
                for chunk in chunks:
                    own = chunk - first
                    total[:, own] += self._divergence(reading, clean, mask, chunk, wanted[:, own])
            looked |= asked
        return total / often[..., None], looked

    def _divergence(
        self,
        reading: Reading,
        clean: CleanLogits,
        mask: int,
        chunk: Int[Tensor, " chunk"],
        wanted: Bool[Tensor, "groups chunk patches"],
    ) -> Float[Tensor, "groups chunk patches codes"]:
        """KL (nats) of the wanted patches under one mask, 0 elsewhere."""
        own = wanted.flatten(0, 1)
        codes = self._map_codes(reading.question.grid)
        found = own.new_zeros(*own.shape, codes, dtype=torch.float64)
        patches, real = padded_indices(own)
        given, start = reading.fork(mask, chunk), 0
        while start < patches.shape[1]:
            step = clean.num_patches(LOGITS // len(own))
            part, is_real = patches[:, start : start + step], real[:, start : start + step]
            for row, perturbed in enumerate(reading.ask(given, part, len(chunk))):
                at = part[row][is_real[row]]
                before = clean.of(row // len(chunk), at)
                found[row, at] = kl_map(before, perturbed[is_real[row]], self.cfg.direction)
            start += step
        return found.unflatten(0, (-1, len(chunk)))

    def _grid(self, frames: Tensor) -> PatchGrid:
        return PatchGrid(*frames.shape[-2:], self.model.patch_px, self.model.code_px)


def check_bound(max_tokens: int, needed: int, grid: PatchGrid) -> None:
    """Raise ValueError if a query needs more tokens than may be in flight."""
    if needed > max_tokens:
        raise ValueError(
            f"max_tokens={max_tokens} is too small for one query, which takes {needed} tokens of "
            f"{grid.height}x{grid.width} px frames; pass at least that many, or less for max_group."
        )


def out_of_memory(error: Exception) -> bool:
    """Whether an error says that an accelerator or this machine has no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
