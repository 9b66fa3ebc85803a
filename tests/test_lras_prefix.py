"""What was read before, in pieces and shared by many, is what one whole pass would have read."""

from itertools import pairwise

import pytest
import torch

from lras.prefix import Given, extend, read
from lras.sequence import concat, frame_groups
from tests.forking_models import loud_model

KINDS = [(flavor, patch_px) for flavor in ("modern", "official") for patch_px in (4, 8)]
WAYS = [(*kind, backend) for kind in KINDS for backend in ("auto", "math")]
WAYS.append(("modern", 8, "flex"))


def case(flavor, patch_px, rows=2, size=16):
    """A predictor, its grid, and two frames of random codes by patch with random orders."""
    net = loud_model(flavor, patch_px, size).predictor
    grid, generator = net.cfg.grid, torch.Generator().manual_seed(4)
    shape = rows, grid.num_patches, grid.codes_per_patch
    codes0, codes1 = torch.randint(24, (2, *shape), generator=generator)
    order0, order1 = torch.rand(2, *shape[:2], generator=generator).argsort(-1)
    return net, grid, codes0, codes1, order0, order1


def whole_pass(net, grid, codes0, codes1, order0, shown):
    """Keys and values of one causal pass over all."""
    vocab = net.cfg.vocab(grid)
    seq = concat(
        frame_groups(codes0, order0, 0, vocab, net.cfg.frame0_pointers),
        frame_groups(codes1, shown, 1, vocab),
    )
    return net.encode(seq, grid)[1]


def close(one, other, atol=2e-5):
    torch.testing.assert_close(one, other, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("flavor, patch_px, backend", WAYS)
def test_reading_in_pieces_equals_one_causal_pass(flavor, patch_px, backend):
    net, grid, codes0, codes1, order0, order1 = case(flavor, patch_px)
    patches = grid.num_patches
    cuts0, shown = [0, 1, patches // 2, patches], order1[:, : patches // 2]
    given = Given()
    for start, end in pairwise(cuts0):
        given = extend(net, given, codes0, order0[:, start:end], 0, grid, backend)
    for piece in (shown[:, :1], shown[:, 1:]):
        given = extend(net, given, codes1, piece, 1, grid, backend)

    expected = whole_pass(net, grid, codes0, codes1, order0, shown)
    assert given.length == expected[0][0].shape[2] and given.rows == 2
    for index, (keys, values) in enumerate(expected):
        parts = given.block(index)
        assert len(parts) == 5
        close(torch.cat([part[0] for part in parts], 2), keys)
        close(torch.cat([part[1] for part in parts], 2), values)


@pytest.mark.parametrize("flavor, patch_px, backend", WAYS)
@pytest.mark.parametrize("codes_read", ["all", 1])
def test_reading_out_equals_the_parallel_read_out(flavor, patch_px, codes_read, backend):
    net, grid, codes0, codes1, order0, order1 = case(flavor, patch_px)
    shown, asked = order1.split([3, grid.num_patches - 3] if patch_px == 4 else [1, 3], 1)
    count = grid.codes_per_patch if codes_read == "all" else 1
    given = extend(net, Given(), codes0, order0, 0, grid, backend)
    given = extend(net, given, codes1, shown, 1, grid, backend)

    got = read(net, given, codes1, asked, grid, count, 20, backend)

    expected = net.read_patches(codes0, codes1, order0, shown, asked, grid, count, 20)
    assert got.shape == (2, asked.shape[1], count, 20)
    close(got, expected, atol=1e-4)
    assert expected.std() > 0.3  # a model that says something


def test_asked_patches_do_not_see_one_another_and_may_be_asked_twice():
    net, grid, codes0, codes1, order0, _ = case("modern", 8)
    given = extend(net, Given(), codes0, order0, 0, grid)
    together = read(net, given, codes1, torch.tensor([[3, 1, 3]] * 2), grid, 4, 24)
    alone = read(net, given, codes1, torch.tensor([[1]] * 2), grid, 4, 24)
    close(together[:, 1:2], alone)
    assert torch.equal(together[:, 0], together[:, 2])


def test_forks_leave_what_they_build_upon_as_it_was():
    net, grid, codes0, codes1, order0, _ = case("modern", 8)
    prefix = extend(net, Given(), codes0, order0[:, :2], 0, grid)
    kept = [t.clone() for pair in prefix.parts[0] for t in pair]
    changed = (codes0 + 1) % 24

    clean = extend(net, prefix, codes0, order0[:, 2:], 0, grid)
    fork = extend(net, prefix, changed, order0[:, 2:], 0, grid)
    read(net, fork, codes1, torch.tensor([[0]] * 2), grid, 4, 24)
    again = extend(net, prefix, codes0, order0[:, 2:], 0, grid)

    assert len(prefix.parts) == 1 and clean.parts[0] is fork.parts[0] is prefix.parts[0]
    now = [t for pair in prefix.parts[0] for t in pair]
    assert all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))
    last = len(net.blocks) - 1
    assert torch.equal(clean.block(last)[1][0], again.block(last)[1][0])
    assert not torch.allclose(clean.block(last)[1][0], fork.block(last)[1][0], atol=0.1)


@pytest.mark.parametrize("flavor, patch_px", KINDS)
def test_rows_that_share_a_prefix_equal_rows_that_repeat_it(flavor, patch_px):
    net, grid, codes0, codes1, order0, order1 = case(flavor, patch_px, rows=6)
    # Two prefixes of three forks each; only the tail of frame 0 differs within three.
    cut = grid.num_patches - 2
    order0 = order0[::3].repeat_interleave(3, 0)
    shared_codes = codes0[::3]
    shared = extend(net, Given(), shared_codes, order0[::3, :cut], 0, grid)
    forks = extend(net, shared, codes0, order0[:, cut:], 0, grid)
    got = read(net, forks, codes1, order1, grid, 1, 24)

    repeated = shared_codes.repeat_interleave(3, 0)
    whole = extend(net, Given(), repeated, order0[:, :cut], 0, grid)
    whole = extend(net, whole, codes0, order0[:, cut:], 0, grid)
    assert (shared.rows, forks.rows, whole.rows) == (2, 6, 6)
    assert len(forks.parts[0][0][0]) == 2  # nothing was copied
    close(got, read(net, whole, codes1, order1, grid, 1, 24))


def test_one_row_serves_any_number():
    net, grid, codes0, codes1, order0, order1 = case("modern", 8, rows=5)
    one = extend(net, Given(), codes0[:1], order0[:1], 0, grid)
    got = read(net, one, codes1, order1, grid, 4, 24)
    for row in range(5):
        alone = read(net, one, codes1[row : row + 1], order1[row : row + 1], grid, 4, 24)
        close(got[row : row + 1], alone)


def test_what_was_read_since_can_be_put_behind_something_else():
    net, grid, codes0, codes1, order0, order1 = case("modern", 8)
    base = extend(net, Given(), codes0, order0[:, :2], 0, grid)
    tail = extend(net, base, codes0, order0[:, 2:], 0, grid)
    shown = extend(net, tail, codes1, order1[:, :1], 1, grid)
    since = shown.since(tail)

    assert (shown.since(base).length, since.length) == (2 * 4 + 5, 5)
    assert tail.since(tail) == Given() and Given().length == 0 and Given().rows == 1
    other = extend(net, base, (codes0 + 1) % 24, order0[:, 2:], 0, grid)
    mixed = other + since
    assert mixed.parts == (*other.parts, *since.parts) and mixed.length == shown.length
    ask = torch.tensor([[0, 1]] * 2)
    answers = [read(net, g, codes1, ask, grid, 4, 24) for g in (shown, mixed, other)]
    assert torch.equal(read(net, tail + since, codes1, ask, grid, 4, 24), answers[0])
    assert (answers[0] - answers[1]).abs().max() > 0.1 < (answers[1] - answers[2]).abs().max()


def test_reading_no_patches_gives_what_was_given():
    net, grid, codes0, _, order0, _ = case("modern", 8)
    given = extend(net, Given(), codes0, order0, 0, grid)
    assert extend(net, given, codes0, order0[:, :0], 1, grid) is given


def test_asking_no_patches_gives_no_logits():
    net, grid, codes0, codes1, order0, _ = case("modern", 8)
    given = extend(net, Given(), codes0, order0, 0, grid)
    assert read(net, given, codes1, order0[:, :0], grid, 4, 24).shape == (2, 0, 4, 24)


def test_a_wrong_grid_is_refused():
    net, _, codes0, _, order0, _ = case("official", 8)
    other = loud_model("official", 8, 24).predictor.cfg.grid
    with pytest.raises(ValueError, match="a slot table knows one image size"):
        extend(net, Given(), codes0, order0, 0, other)
