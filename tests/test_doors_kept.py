"""Answers on disk: the same bits again, and never those of another question."""

import pytest
import torch

from doors.kept import Kept
from tracing.asking import Answers

ASKED = {"seed": 0, "tracer": {"sigma_px": 1.0, "max_tokens": 9}, "frame_hw": (3, 4)}


def some_answers():
    generator = torch.Generator().manual_seed(0)
    return Answers(
        xy=torch.randn(5, 2, generator=generator),
        visible=torch.tensor([True, False, True, True, False]),
        peak_kl=torch.randn(5, generator=generator, dtype=torch.float64),
        return_px=torch.full((5,), torch.inf),
        seconds=1 / 3,
    )


@pytest.mark.parametrize("bare", [False, True])
def test_a_block_comes_back_bit_for_bit_in_another_process(tmp_path, bare):
    answers = some_answers()
    if bare:
        answers = Answers(xy=answers.xy, visible=answers.visible, seconds=0.0)
    Kept(tmp_path / "answers", ASKED).keep("points-000000", answers)
    memory = Kept(tmp_path / "answers", ASKED)
    again = memory.recall("points-000000")
    for name, value in vars(answers).items():
        other = getattr(again, name)
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, other) and value.dtype == other.dtype
        else:
            assert value == other
    assert memory.recall("points-000001") is None
    names = {path.name for path in (tmp_path / "answers").iterdir()}
    assert names == {"asked.json", "points-000000.npz"}  # no half-written ones


def test_another_question_is_refused_by_name(tmp_path):
    Kept(tmp_path, ASKED)
    with pytest.raises(ValueError, match=r"another question: seed was 0 and is 1 now"):
        Kept(tmp_path, ASKED | {"seed": 1})
    with pytest.raises(ValueError, match=r"tracer\.sigma_px was 1\.0 and is 2\.0 now"):
        Kept(tmp_path, ASKED | {"tracer": {"sigma_px": 2.0, "max_tokens": 9}})
    with pytest.raises(ValueError, match=r"window was None and is 3 now"):
        Kept(tmp_path, ASKED | {"window": 3})


def test_what_only_makes_it_faster_may_change(tmp_path):
    Kept(tmp_path, ASKED)
    faster = ASKED | {"tracer": {"sigma_px": 1.0, "max_tokens": 1}}
    Kept(tmp_path, faster, free=("tracer.max_tokens",))
    with pytest.raises(ValueError, match="max_tokens"):
        Kept(tmp_path, faster)


def test_a_damaged_block_is_named(tmp_path):
    memory = Kept(tmp_path, ASKED)
    memory.keep("points-000000", some_answers())
    path = tmp_path / "points-000000.npz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"points-000000\.npz is damaged .*; delete it"):
        memory.recall("points-000000")
