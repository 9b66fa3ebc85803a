"""FlowProbe's account of time: how often it probes, and what a resumed run remembers."""

from itertools import pairwise

import pytest

from tests.test_plain_trainer import plain_trainer, predictor_module, scenes
from tests.test_tracing_probe import probe
from tracing.probe.budget import Budget


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_budget_allows_a_visit_only_if_it_and_the_last_one_stay_within_the_share():
    clock = Clock()
    budget = Budget(0.1, clock)
    budget.start()

    def visit(seconds):
        with budget.spending():
            clock.now += seconds

    visit(1)
    clock.now += 29.9
    assert not budget.affords(1.0)  # 1 spent, 1 now, 1 at the end: 3 of 29.9
    assert budget.affords(0.5)  # half way through, half of the first and the last counts
    clock.now += 0.2
    assert budget.affords(1.0)
    visit(1)
    assert budget.share == pytest.approx(2 / 30.1)
    assert not budget.affords(1.0)
    twin = Budget(0.1, clock)
    twin.load_state_dict(budget.state_dict())
    twin.start()
    clock.now += 9.8
    assert not twin.affords(1.0)
    clock.now += 0.2
    assert twin.affords(1.0) and budget.affords(1.0)
    visit(30)  # once the machine was busy: paid for, but not what the next one is taken to cost
    clock.now += 300
    assert budget.affords(1.0)
    assert Budget(None).affords(1.0)


def test_visits_are_evenly_spread_over_a_run_and_keep_to_the_share_at_its_end():
    clock = Clock()
    budget = Budget(0.05, clock)
    budget.start()
    steps, visited = 1000, []
    for step in range(steps + 1):
        if step in (0, steps) or budget.affords(step / steps):
            visited.append(step)
            with budget.spending():
                clock.now += 5.0
        clock.now += 1.0
    assert budget.spent <= 0.05 * 1000 + 1e-9
    gaps = [b - a for a, b in pairwise(visited)]
    assert len(visited) == 9 and max(gaps) - min(gaps) <= 2


@pytest.mark.parametrize("share", [0.0, -0.1])
def test_budget_refuses_a_share_that_allows_nothing(share):
    with pytest.raises(ValueError, match="positive share"):
        Budget(share)


def test_a_share_thins_out_the_probes_between_the_first_and_the_last(tmp_path):
    def steps_probed(**extra):
        watcher = probe(max_share=1e-6, **extra)
        trainer = plain_trainer(6, watcher, default_root_dir=tmp_path, val_check_interval=3)
        trainer.fit(predictor_module(), scenes(6))
        return [point["step"] for point in watcher.history]

    assert steps_probed() == [0, 6]
    assert steps_probed(at_validation_end="always") == [0, 3, 6]


def test_a_resumed_run_keeps_history_and_account(tmp_path):
    first = probe()
    trainer = plain_trainer(4, first, default_root_dir=tmp_path)
    trainer.fit(predictor_module(), scenes(8))
    trainer.save_checkpoint(tmp_path / "at4.ckpt")
    second = probe()
    plain_trainer(8, second, default_root_dir=tmp_path).fit(
        predictor_module(), scenes(8), ckpt_path=tmp_path / "at4.ckpt", weights_only=True
    )
    assert [point["step"] for point in second.history] == [0, 2, 4, 6, 8]
    assert second.history[:3] == first.history
    assert second.budget.spent > first.budget.spent
