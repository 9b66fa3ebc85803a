"""Who shares a prefix: everyone who changes something, once, at the least cost."""

import pytest
import torch

from lras.grid import PatchGrid
from tracing.layout import TILE, group_size, make_groups

GRID = PatchGrid(56, 40, 8, 4)  # 7 x 5 patches of four codes


def tracers(points, seed=0, silent=0.2):
    """Which patches each tracer changes: a random square of 3x3, some of it, or nothing."""
    generator = torch.Generator().manual_seed(seed)
    changed = torch.zeros(points, GRID.num_patches, dtype=torch.bool)
    for row in changed:
        if torch.rand((), generator=generator) < silent:
            continue
        top, left = (int(torch.randint(n, (), generator=generator)) for n in (5, 3))
        keep = torch.rand(3, 3, generator=generator) < 0.6
        keep[1, 1] = True
        row.view(7, 5)[top : top + 3, left : left + 3] = keep
    order0 = torch.randperm(GRID.num_patches, generator=generator)
    return changed, order0


@pytest.mark.parametrize("points", [1, 2, 17, 60])
@pytest.mark.parametrize("max_group", [1, 4, 64])
@pytest.mark.parametrize("seed", range(3))
def test_everyone_who_changes_something_is_in_one_group(points, max_group, seed):
    changed, order0 = tracers(points, seed)
    groups = make_groups(changed, order0, GRID, 9, max_group)
    members = [n for group in groups for n in group.points.tolist()]
    active = [n for n in range(points) if changed[n].any()]
    assert sorted(members) == active
    assert all(1 <= len(group.points) <= max_group for group in groups)
    sizes = [len(group.points) for group in groups]
    assert not sizes or max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("max_group", [1, 4, 64])
def test_what_a_group_changes_comes_last_and_all_keep_their_order(max_group):
    changed, order0 = tracers(40)
    place = order0.argsort()
    for group in make_groups(changed, order0, GRID, 9, max_group):
        assert sorted(group.order0.tolist()) == list(range(GRID.num_patches))
        assert group.order0.tolist() == group.rest.tolist() + group.tail.tolist()
        union = {p for n in group.points for p in changed[n].nonzero()[:, 0].tolist()}
        assert set(group.tail.tolist()) == union
        for part in (group.rest, group.tail):
            assert (place[part].diff() > 0).all()


def test_nobody_who_changes_anything_makes_no_group():
    changed, order0 = tracers(5, silent=1.1)
    assert make_groups(changed, order0, GRID, 9, 64) == []
    assert make_groups(changed[:0], order0, GRID, 9, 64) == []


def test_all_patches_changed_leave_no_prefix():
    changed = torch.ones(2, GRID.num_patches, dtype=torch.bool)
    order0 = torch.arange(GRID.num_patches)
    (one, other) = make_groups(changed, order0, GRID, 0, 1)
    assert not len(one.rest) and not len(other.rest) and torch.equal(one.tail, order0)


def test_neighbors_share_a_group():
    """A dense grid of tracers falls into groups that change fewer patches than random ones."""
    grid = PatchGrid(128, 128, 8, 4)
    changed = torch.eye(grid.num_patches, dtype=torch.bool)
    groups = make_groups(changed, torch.arange(grid.num_patches), grid, 64, 16)
    assert [len(group.points) for group in groups] == [16] * 16
    for group in groups:  # a tile each
        rows, cols = group.tail // 16, group.tail % 16
        assert len((rows // TILE).unique()) == len((cols // TILE).unique()) == 1


@pytest.mark.parametrize("num_revealed", [0, 9, 30])
@pytest.mark.parametrize("changed_patches", [1.0, 2.5, 6.0, 35.0])
@pytest.mark.parametrize(
    "grid", [GRID, PatchGrid(64, 64, 4, 4), PatchGrid(256, 256, 8, 4)], ids=str
)
def test_group_size_costs_the_fewest_tokens(num_revealed, changed_patches, grid):
    codes, patches = grid.codes_per_patch, grid.num_patches
    shared = patches * codes + num_revealed * (1 + codes) + patches - num_revealed

    def cost(size):  # a query's own: everyone's tail, and its share of what all have in common
        return changed_patches * codes * size + shared / size

    best = min(range(1, patches), key=cost)
    size = group_size(changed_patches, grid, num_revealed)
    assert abs(size - best) <= 1 and cost(size) <= 1.02 * cost(best)


def test_group_size_follows_the_mean_of_those_who_change_something():
    grid = PatchGrid(64, 64, 4, 4)
    changed = torch.zeros(200, 256, dtype=torch.bool)
    changed[torch.arange(0, 200, 2), torch.arange(100)] = True  # every other one changes a patch
    groups = make_groups(changed, torch.arange(256), grid, 64, 64)
    expected = group_size(1.0, grid, 64)
    assert len(groups) == -(-100 // expected)
