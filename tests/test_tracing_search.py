"""Which patches are asked: a lattice, round the highest, near the query; against loops."""

import itertools

import pytest
import torch

from lras.grid import PatchGrid
from tracing.search import (
    CANDIDATES,
    ROUNDS,
    SEARCHES,
    CoarseToFine,
    Full,
    around_highest,
    lattice,
    within_window,
)

SIZES = [(1, 1), (1, 6), (2, 2), (3, 5), (4, 4), (7, 6), (9, 9)]


def grid_of(rows, cols):
    return PatchGrid(8 * rows, 8 * cols, 8, 4)


def some(shape, share, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share


def slow_lattice(may_win, rows, cols):
    """One patch of every square: the first that may win of (0, 0), (1, 1), (0, 1), (1, 0)."""
    chosen = torch.zeros(rows * cols, dtype=torch.bool)
    for top, left in itertools.product(range(0, rows, 2), range(0, cols, 2)):
        for down, right in ((0, 0), (1, 1), (0, 1), (1, 0)):
            row, col = top + down, left + right
            if row < rows and col < cols and may_win[row * cols + col]:
                chosen[row * cols + col] = True
                break
    return chosen


def slow_around(found, looked, count, rows, cols):
    seen = [p for p in range(rows * cols) if looked[p]]
    chosen = torch.zeros(rows * cols, dtype=torch.bool)
    for peak in sorted(seen, key=lambda p: -float(found[p]))[:count]:
        for patch in range(rows * cols):
            away = abs(patch // cols - peak // cols), abs(patch % cols - peak % cols)
            chosen[patch] |= max(away) <= 1
    return chosen


@pytest.mark.parametrize("rows, cols", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_lattice_takes_one_of_every_square_that_may_win(rows, cols, share):
    may_win = some((2, 3, rows * cols), share)
    got = lattice(may_win, grid_of(rows, cols))
    assert got.shape == may_win.shape
    for a, b in itertools.product(range(2), range(3)):
        assert torch.equal(got[a, b], slow_lattice(may_win[a, b], rows, cols))


@pytest.mark.parametrize("rows, cols", SIZES)
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
def test_around_the_highest_that_were_looked_at(rows, cols, count, share):
    generator = torch.Generator().manual_seed(1)
    found = torch.rand(2, 3, rows * cols, generator=generator).double()
    looked = some(found.shape, share)
    got = around_highest(found, looked, count, grid_of(rows, cols))
    for a, b in itertools.product(range(2), range(3)):
        expected = slow_around(found[a, b], looked[a, b], count, rows, cols)
        assert torch.equal(got[a, b], expected)


@pytest.mark.parametrize("rows, cols", SIZES)
@pytest.mark.parametrize("window_px", [None, 0.5, 8.0, 11.0, 500.0])
def test_window_is_a_square_round_the_query_and_holds_its_patch(rows, cols, window_px):
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(2, 5, 2, generator=generator) * torch.tensor([8.0 * cols, 8.0 * rows])
    got = within_window(points, grid_of(rows, cols), window_px)
    for a, b, patch in itertools.product(range(2), range(5), range(rows * cols)):
        x, y = points[a, b].tolist()
        row, col = divmod(patch, cols)
        near = max(abs(8 * col + 4 - x), abs(8 * row + 4 - y)) <= (window_px or 1e9)
        own = (row, col) == (int(y // 8), int(x // 8))
        assert bool(got[a, b, patch]) == (near or own)


# Whole searches.


def run(search, maps):
    """Every round's patches, given the truth; found is 0 where one has not looked."""
    looked, rounds = torch.zeros_like(maps, dtype=torch.bool), []
    while (asked := search.next(torch.where(looked, maps, 0.0), looked)) is not None:
        rounds.append(asked.clone())
        looked |= asked
        assert len(rounds) <= 2 + ROUNDS
    return rounds, looked


def bumps(rows, cols, queries=40, seed=0):
    """Maps with one smooth peak anywhere, of any width in each direction."""
    generator = torch.Generator().manual_seed(seed)
    center = (
        torch.rand(2, queries, 1, 1, generator=generator)
        * torch.tensor([rows, cols])[:, None, None, None]
    )
    width = 1.0 + 3.0 * torch.rand(2, queries, 1, 1, generator=generator)
    away = [
        (torch.arange(n).view(shape) + 0.5 - center[i]) / width[i]
        for i, (n, shape) in enumerate([(rows, (1, -1, 1)), (cols, (1, 1, -1))])
    ]
    return (-(away[0] ** 2) - away[1] ** 2).double().exp().flatten(1)[None]


@pytest.mark.parametrize("rows, cols", [(7, 6), (9, 9), (16, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_coarse_to_fine_finds_the_peak_of_a_smooth_map_and_knows_its_neighbors(rows, cols, seed):
    maps, grid = bumps(rows, cols, seed=seed), grid_of(rows, cols)
    may_win = torch.ones_like(maps, dtype=torch.bool)
    rounds, looked = run(CoarseToFine(may_win, grid), maps)
    assert torch.equal(maps.masked_fill(~looked, -1).argmax(-1), maps.argmax(-1))
    peaks = maps == maps.amax(-1, keepdim=True)
    round_peak = around_highest(maps, peaks, 1, grid)
    assert (looked | ~round_peak).all()  # so a centroid is that of the whole map
    assert torch.equal(rounds[0], lattice(may_win, grid))
    if rows == 16:
        assert looked.float().mean() < 0.5


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_coarse_to_fine_never_asks_twice_nor_what_cannot_win(share):
    generator = torch.Generator().manual_seed(3)
    maps = torch.rand(3, 20, 81, generator=generator).double()  # no structure at all
    may_win = some(maps.shape, share)
    rounds, looked = run(CoarseToFine(may_win, grid_of(9, 9)), maps)
    assert torch.stack([*rounds, torch.zeros_like(looked)]).sum(0).max() <= 1
    assert not (looked & ~may_win).any()
    assert (share == 0.0) == (not rounds)


def test_second_round_looks_round_some_candidates_and_the_later_ones_round_the_highest():
    grid, maps = grid_of(12, 12), torch.zeros(1, 1, 144, dtype=torch.float64)
    peaks = [0, 8, 48, 74, 120]  # all on the lattice, each a little lower
    for height, patch in zip((5, 4, 3, 2, 1), peaks, strict=True):
        maps[0, 0, patch] = height
    rounds, looked = run(CoarseToFine(torch.ones_like(maps, dtype=torch.bool), grid), maps)
    assert CANDIDATES == 4 and len(rounds) == 2
    for patch in (1, 9, 49, 75):
        assert looked[0, 0, patch]
    assert not looked[0, 0, 121]


def test_a_ridge_is_followed_for_a_number_of_rounds_only():
    grid = grid_of(4, 60)
    maps = torch.arange(60).repeat(4, 1).flatten().double()[None, None]
    may_win = torch.ones_like(maps, dtype=torch.bool)
    search = CoarseToFine(may_win, grid)
    looked, rounds = torch.zeros_like(may_win), 0
    # The lattice is said to hold nothing but at the low end, so that every round climbs a step.
    while (asked := search.next(torch.where(looked, maps, 0.0), looked)) is not None:
        if rounds == 0:
            asked = torch.zeros_like(asked)
            asked[0, 0, 0] = True
        looked |= asked
        rounds += 1
    assert rounds == 1 + ROUNDS and looked[0, 0, ROUNDS] and not looked[0, 0, ROUNDS + 1]


def test_full_search_asks_all_once():
    may_win = some((2, 3, 20), 0.5)
    rounds, looked = run(Full(may_win, grid_of(4, 5)), torch.zeros(2, 3, 20).double())
    assert len(rounds) == 1 and torch.equal(looked, may_win)
    assert run(Full(may_win & False, grid_of(4, 5)), torch.zeros(2, 3, 20).double())[0] == []
    assert (SEARCHES["full"], SEARCHES["coarse_to_fine"]) == (Full, CoarseToFine)
