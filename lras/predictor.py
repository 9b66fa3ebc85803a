"""FramePredictor: a GPT over (pointer, contents) groups that fills in the next frame in any order.

START READING HERE. Two frames are cut into patches, each patch into code cells, each cell into one
code. Frame 0's codes come first, then frame 1 as groups: a pointer token names a patch, the codes
of that patch follow. Patches come in random order, so the trained model can be asked for the
distribution of any patch of frame 1 given any other patches of it. `tracing/` asks just that.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lras.config import PredictorConfig
from lras.grid import PatchGrid
from lras.hub import Hub
from lras.layers import Block, KeyValue, Rotation, make_norm, rotary_angles
from lras.loss import LossConfig, content_cross_entropy
from lras.running import RunBlock, run_block
from lras.sequence import Sequence, concat, content_rows, frame_groups, two_frames


class FramePredictor(nn.Module, Hub):
    """Predicts the codes of frame 1, patch by patch, given frame 0 and any patches of frame 1.

    Codes are always handed in grouped by patch, ``(batch, patches, codes)``; orders permute
    the patches. ``grid`` may differ from the configured one with rotary positions only.
    """

    purpose = "Predicts the codes of the next frame, patch by patch, in any order."
    loaded_by = "load_predictor"

    def __init__(self, cfg: PredictorConfig) -> None:
        super().__init__()
        self.cfg = cfg
        rotary = cfg.positions == "rotary"
        # With rotary positions a pointer is known by its place, so only contents need a table.
        self.token_table = nn.Embedding(cfg.num_codes if rotary else cfg.num_tokens, cfg.dim)
        places = 2 * (1 + cfg.codes_per_patch) if rotary else cfg.num_slots
        self.place_table = nn.Embedding(places, cfg.dim)
        self.pixel_embed = None
        if cfg.embed_pixels:
            pixels = 3 * (cfg.painted_px or cfg.code_px) ** 2
            self.pixel_embed = nn.Linear(pixels, cfg.dim, bias=False)
            self.register_buffer("code_pixels", torch.zeros(cfg.num_codes, pixels))
        self.blocks = nn.ModuleList(Block(cfg) for _ in range(cfg.num_layers))
        self.final_norm = make_norm(cfg)
        head_rows = cfg.num_codes if rotary else cfg.num_tokens
        self.head = None if cfg.tied_head else nn.Linear(cfg.dim, head_rows, bias=False)
        self.run_block: RunBlock = run_block  # of forward; compiled, recomputed: lras/running.py
        self.loss = LossConfig()
        self._initialize()

    def _initialize(self) -> None:
        """N(0, 0.02) as published; from scratch, unit-gain blocks whose outputs start at zero."""
        modern = self.cfg.positions == "rotary"
        inner = self.cfg.dim**-0.5 if modern else 0.02
        outer = 0.0 if modern else 0.02 / (2 * len(self.blocks)) ** 0.5
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                is_output = name.endswith((".out", ".down"))
                in_block = name.startswith("blocks.")
                std = outer if is_output else inner if in_block else 0.02
                nn.init.normal_(module.weight, std=std)
        if self.pixel_embed is not None:  # pixels and table contribute alike
            nn.init.normal_(self.pixel_embed.weight, std=0.02 * self.pixel_embed.in_features**-0.5)

    def set_code_pixels(self, code_pixels: Float[Tensor, "codes pixels"]) -> None:
        """Tell the embedding what every code looks like (``Quantizer.code_pixels``)."""
        if self.pixel_embed is not None:
            centered = code_pixels - code_pixels.mean(0)
            self.code_pixels.copy_(centered / centered.std().clamp_min(1e-6))

    # --- the pieces -------------------------------------------------------------------------

    def code_vectors(self) -> Float[Tensor, "codes dim"]:
        """The embedding of every code: its table row plus a linear view of its pixels."""
        table = self.token_table.weight[: self.cfg.num_codes]
        return table if self.pixel_embed is None else table + self.pixel_embed(self.code_pixels)

    def head_weight(self) -> Float[Tensor, "vocab dim"]:
        """Output weights; rows from num_codes on (untied slot models only) are pointers."""
        return self.code_vectors() if self.head is None else self.head.weight

    def embed(self, seq: Sequence, grid: PatchGrid) -> Float[Tensor, "batch seq dim"]:
        """Vectors that enter the first block: what the token says plus where it says it."""
        slots = 1 + self.cfg.codes_per_patch
        if self.cfg.positions == "slot":
            return self.token_table(seq.tokens) + self.place_table(self.places(seq, grid))
        vectors = torch.cat(
            [self.code_vectors(), self.token_table.weight.new_zeros(1, self.cfg.dim)]
        )
        content = F.embedding(seq.tokens.clamp_max(self.cfg.num_codes), vectors) * self.cfg.dim**0.5
        return content + self.place_table(seq.frame * slots + seq.slot) * self.cfg.dim**0.5

    def places(self, seq: Sequence, grid: PatchGrid) -> Int[Tensor, "batch seq"]:
        """Rows of a slot model's table: one for every frame, patch and slot."""
        slots, ranges = 1 + self.cfg.codes_per_patch, self.cfg.ranges
        if ranges is None:
            start = seq.frame * grid.num_patches * slots
        else:
            start = torch.where(seq.frame == 0, ranges.places0[0], ranges.places1[0])
        return start + seq.patch * slots + seq.slot

    def rotation(self, seq: Sequence, grid: PatchGrid) -> Rotation | None:
        """Rotary angles of the tokens' true places, or None with a slot table."""
        if self.cfg.positions == "slot":
            return None
        rows = (seq.patch // grid.cols).float()
        cols = (seq.patch % grid.cols).float()
        return rotary_angles(rows, cols, self.cfg.dim // self.cfg.num_heads)

    def encode(
        self, seq: Sequence, grid: PatchGrid
    ) -> tuple[Float[Tensor, "batch seq dim"], list[KeyValue]]:
        """Causal pass over a sequence: hidden states, and every block's keys and values."""
        x, rotation, cache = self.embed(seq, grid), self.rotation(seq, grid), []
        for block in self.blocks:
            x, key_value = block(x, rotation)
            cache.append(key_value)
        return self.final_norm(x), cache

    # --- the two uses -----------------------------------------------------------------------

    def forward(
        self,
        codes0: Int[Tensor, "batch patches codes"],
        codes1: Int[Tensor, "batch patches codes"],
        order0: Int[Tensor, "batch placed"],
        order1: Int[Tensor, "batch kept"],
        grid: PatchGrid,
    ) -> Float[Tensor, "batch kept codes"]:
        """Training: nats of the contents of frame 1, in sequence order (patch by ``order1``).

        Orders may leave patches out: a shorter sequence, and more of it with little revealed.
        """
        self.check_grid(grid)
        vocab = self.cfg.vocab(grid)
        seq = two_frames(codes0, codes1, order0, order1, vocab, self.cfg.frame0_pointers)
        x, rotation = self.embed(seq, grid), self.rotation(seq, grid)
        for block in self.blocks:
            x = self.run_block(block, x, rotation)
        asking, targets = content_rows(x, seq.tokens, order1.shape[1], codes1.shape[2])
        weight = self.head_weight()
        nll = content_cross_entropy(self.final_norm(asking), weight, targets, self.loss)
        return nll.view(*order1.shape, -1)

    def read_patches(
        self,
        codes0: Int[Tensor, "batch patches codes"],
        codes1: Int[Tensor, "batch patches codes"],
        order0: Int[Tensor, "batch placed"],
        revealed: Int[Tensor, "batch revealed"],
        asked: Int[Tensor, "batch asked"],
        grid: PatchGrid,
        codes_read: int | None = None,
        columns: int | None = None,
    ) -> Float[Tensor, "batch asked read vocab"]:
        """Content logits of the ``asked`` patches, all in parallel, given the ``revealed`` ones.

        Each asked patch sees frame 0, the revealed patches (in this order) and its own true
        codes before the one predicted; asked patches never see one another. ``codes_read`` limits
        the read-out to the first codes of a patch (default: all), ``columns`` the logits to the
        first of ``head_weight`` (default: the codes).
        """
        self.check_grid(grid)
        vocab = self.cfg.vocab(grid)
        read = self.cfg.codes_per_patch if codes_read is None else codes_read
        prefix = concat(
            frame_groups(codes0, order0, 0, vocab, pointers=self.cfg.frame0_pointers),
            frame_groups(codes1, revealed, 1, vocab),
        )
        _, cache = self.encode(prefix, grid)
        # A group of `read` tokens, pointer and the codes before the last one read, names each code.
        queries = frame_groups(codes1[..., : read - 1], asked, 1, vocab)
        x, rotation = self.embed(queries, grid), self.rotation(queries, grid)
        for block, key_value in zip(self.blocks, cache, strict=True):
            x = block.read_groups(x, rotation, key_value, group=read)
        logits = self.logits(x, self.cfg.num_codes if columns is None else columns)
        return rearrange(logits, "b (p k) v -> b p k v", k=read)

    def logits(
        self, x: Float[Tensor, "batch seq dim"], columns: int
    ) -> Float[Tensor, "batch seq vocab"]:
        """The first ``columns`` of the head for what left the last block.

        In float32 on a CPU the sums are float64: rounded after every product, they alone would move
        a KL by 1e-6 nats.
        """
        weight, x = self.head_weight()[:columns], self.final_norm(x)
        if x.device.type == "cpu" and x.dtype == torch.float32 == weight.dtype:
            return (x.double() @ weight.double().T).float()
        return x @ weight.to(x.dtype).T

    def check_grid(self, grid: PatchGrid) -> None:
        """Raise ValueError if this predictor cannot read frames on ``grid``."""
        own = self.cfg.grid
        if (grid.patch_px, grid.code_px) != (own.patch_px, own.code_px):
            raise ValueError(
                f"the grid has patches of {grid.patch_px} px and cells of {grid.code_px} px, "
                f"but this predictor was built for {own.patch_px} and {own.code_px} px."
            )
        if self.cfg.positions == "slot" and (grid.rows, grid.cols) != (own.rows, own.cols):
            raise ValueError(
                f"a slot table knows one image size: got {grid.height}x{grid.width} px, "
                f"expected {own.height}x{own.width} px; resize the frames to {own.height} px."
            )


def split_revealed(
    order: Int[Tensor, "batch patches"], reveal: Bool[Tensor, "batch patches"]
) -> tuple[Int[Tensor, "batch revealed"], Int[Tensor, "batch hidden"]]:
    """Revealed and hidden patches, each in the order they stand in ``order``.

    Raises:
        ValueError: the samples reveal different numbers of patches.
    """
    counts = reveal.sum(1)
    if (counts != counts[0]).any():
        raise ValueError(
            f"reveal masks of one batch show {counts.tolist()} patches; expected one number."
        )
    shown = torch.gather(reveal, 1, order)
    ranked = torch.gather(order, 1, (~shown).long().argsort(dim=1, stable=True))
    count = int(counts[0])
    return ranked[:, :count], ranked[:, count:]
