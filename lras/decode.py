"""Roll-out: fill in the hidden patches of frame 1 with codes drawn from the model.

Drawn in rounds. The patches of one round are drawn in parallel, each given frame 0, the revealed
patches and all earlier rounds, but not one another; the codes inside a patch follow one another.
One patch a round is exact sequential sampling; one round is fastest and least coherent.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from lras.predictor import split_revealed


@torch.no_grad()
def roll_out(
    model: NextFrame,
    codes0: Int[Tensor, "batch code_rows code_cols"],
    codes1: Int[Tensor, "batch code_rows code_cols"],
    reveal: Bool[Tensor, "batch patches"],
    order0: Int[Tensor, "batch patches"],
    order1: Int[Tensor, "batch patches"],
    rounds: int,
    temperature: float,
    generator: torch.Generator,
    top_k: int | None = None,
) -> Int[Tensor, "batch code_rows code_cols"]:
    """Codes of frame 1: those of ``codes1`` where revealed, drawn ones elsewhere.

    Hidden patches are filled in as they stand in ``order1``; their codes in ``codes1`` are never
    looked at. Logits are divided by ``temperature`` (0 = the likeliest code), and only the
    ``top_k`` likeliest codes are drawn (None = any). Every code's draw is attached to its place
    before anything is predicted, so one state of the generator asks the same dice of any model.

    Raises:
        ValueError: no such number of rounds, a negative temperature, top_k below 1, or a model
            whose logits are not numbers.
    """
    rows, cols = codes1.shape[-2:]
    grid = PatchGrid(rows * model.code_px, cols * model.code_px, model.patch_px, model.code_px)
    revealed, hidden = split_revealed(order1, reveal)
    _check(rounds, hidden.shape[1], temperature, top_k)
    patches0, patches1 = grid.to_patches(codes0), grid.to_patches(codes1)
    filled = patches1.clone()
    noise = draw_noise(grid, len(codes0), generator).to(codes0.device)
    batch = torch.arange(len(codes0), device=codes0.device)[:, None]
    given = revealed
    for asked in hidden.tensor_split(rounds, dim=1):
        for slot in range(grid.codes_per_patch):
            logits = model.predictor.read_patches(
                patches0, filled, order0, given, asked, grid, codes_read=slot + 1
            )[:, :, slot]
            if not logits.isfinite().all():  # would draw a code that does not exist
                raise ValueError(
                    "the model's logits are NaN or infinite, so there is nothing to draw from; "
                    "look at the training loss, or load an earlier checkpoint."
                )
            drawn = draw_codes(logits, noise[batch, asked, slot], temperature, top_k)
            filled[batch, asked, slot] = drawn
        given = torch.cat([given, asked], dim=1)
    return grid.to_cells(filled)


def draw_noise(
    grid: PatchGrid, batch: int, generator: torch.Generator
) -> Float[Tensor, "batch patches codes"]:
    """A number of [0, 1) for every code of a frame, on the generator's device."""
    shape = (batch, grid.num_patches, grid.codes_per_patch)
    return torch.rand(shape, generator=generator, device=generator.device)


def draw_codes(
    logits: Float[Tensor, "*n vocab"],
    noise: Float[Tensor, "*n"],
    temperature: float,
    top_k: int | None = None,
) -> Int[Tensor, "*n"]:
    """The code at which the cumulative probability passes ``noise``; arg-max at temperature 0."""
    if temperature == 0:
        return logits.argmax(-1)
    logits = logits.double() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        weakest = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < weakest, -torch.inf)
    passed = logits.softmax(-1).cumsum(-1)
    # subtle: rounding leaves the last sum beside 1, so noise is scaled by it and some code always
    # passes; right=True never stops at a code of probability 0.
    at = torch.searchsorted(passed, noise.double()[..., None] * passed[..., -1:], right=True)
    return at[..., 0]


def _check(rounds: int, hidden: int, temperature: float, top_k: int | None) -> None:
    if not 1 <= rounds <= max(1, hidden):
        raise ValueError(
            f"rounds={rounds} does not divide {hidden} hidden patches into rounds; pass 1 (all in "
            f"parallel) to {max(1, hidden)} (one after another)."
        )
    if temperature < 0:
        raise ValueError(f"temperature={temperature} is negative; pass 0 for the likeliest code.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} leaves no code to draw; pass 1 or more, or None for all.")
