"""From a task and tracers to rows: traced once, kept on disk, shared by processes, then graded."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from doors.asking import FREE, INTERRUPTED, PLAIN
from doors.progress import progress
from doors.shards import mark_done, shard_by_hand, shard_by_launcher, unmark, wait_for_others
from tracing.benchmarks.base import Row, Tracer
from tracing.benchmarks.evaluation import PartlyGraded, Task, scores_of
from tracing.benchmarks.predictions import Predictions
from tracing.benchmarks.remembered import AllTraced, Course, Remembered

PREDICTIONS = "predictions"  # folder, in the run's


@dataclass(frozen=True)
class Graded:
    """Rows and how they came about; ``task`` is what was graded, perhaps only part of it."""

    task: Task
    rows: list[Row]
    course: Course
    coverage: dict[str, Any]
    points_per_second: dict[str, float | None]  # by tracer; wall time when they were traced


class Grader:
    """Puts the questions of one task to tracers.

    Args:
        asked: all that the answers depend on, JSON-ready; see ``Predictions``.

    Raises:
        ValueError: ``out`` holds answers to something else, or ``shard`` is misspelt.
    """

    def __init__(
        self,
        cfg: DictConfig,
        task: Task,
        tracers: Sequence[Tracer],
        asked: dict[str, Any],
        out: Path,
        console: Console,
    ) -> None:
        self.cfg, self.task, self.tracers, self.out, self.console = cfg, task, tracers, out, console
        self.by_hand, self.launched = shard_by_hand(cfg.shard), shard_by_launcher()
        if self.by_hand and (cfg.grade_only or cfg.partial):
            raise ValueError(
                f"shard={cfg.shard} only traces and grade_only or partial only grade; leave one of "
                "the two out."
            )
        self.memory = Predictions(out / PREDICTIONS, asked, FREE)
        self.again = f"the same command with hydra.run.dir={out} goes on"

    def grade(self, patch_px: int, paired_with: str | None) -> Graded | None:
        """The rows, tracers in the order given; None where this process only traces a share.

        Raises:
            ValueError: as the task's ``score``; answers are missing that must not be traced, or
                another process gave no sign of life.
        """
        cfg, console = self.cfg, self.console
        only_grade = cfg.grade_only or cfg.partial
        if not only_grade:
            where = f"answers are kept in {self.memory.folder}"
            console.print(f"{where}; should this stop, {self.again}", **PLAIN)
        how = {"patch_px": patch_px, "paired_with": paired_with}
        shard = self.by_hand or (None if only_grade else self.launched)
        if shard is not None:
            unmark(self.memory.folder, shard)
            self._scored(self.task, how, shard=shard)
            mark_done(self.memory.folder, shard)
            if self.by_hand:
                console.print(
                    f"shard {shard} is traced; when all {shard.count} are, type the same command "
                    f"without shard and with hydra.run.dir={self.out}",
                    **PLAIN,
                )
                return None
            if shard.index:
                return None
            wait_for_others(self.memory.folder, shard, cfg.wait_s, console)
        elif self.launched and self.launched.index:
            return None  # one grades
        graded = self._scored(self.task, how, recall_only=only_grade)
        if graded.rows:
            return graded
        return self._partly(graded, how)

    def _partly(self, found: Graded, how: dict[str, Any]) -> Graded:
        """The rows of the units that every tracer has answered, if that is wanted."""
        units, of_units = found.coverage["units"], found.coverage["of_units"]
        said = f"{units} of {of_units} units ({found.coverage['share']:.1%}) are answered"
        if not self.cfg.partial or not units:
            more = "" if not units else ", or grade what is there: partial=true"
            only = "partial" if self.cfg.partial else "grade_only"
            raise ValueError(
                f"{said} in {self.memory.folder}, and {only}=true traces nothing; trace the rest "
                f"with the same command without it{more}."
            )
        if not isinstance(self.task, PartlyGraded):
            raise ValueError(
                f"{said}, and task={self.task.name} cannot be graded in part; trace the rest with "
                "the same command without partial=true."
            )
        self.console.print(f"{said}; only these are graded", **PLAIN)
        there = [unit for unit in found.course.order if unit not in found.course.missing]
        task = self.task.only(there)
        graded = self._scored(task, how, recall_only=True, any_seed=True)
        return replace(graded, coverage=found.coverage)

    def _scored(self, task: Task, how: dict[str, Any], **limits: Any) -> Graded:
        """``rows`` is empty where the course ended in ``AllTraced``."""
        with (
            self._stoppable(),
            progress(len(task.parts), self.console, "parts", say_known=False) as tell,
        ):
            course = Course(task.parts, self.cfg.seed, tell=tell, **limits)
            tracers = [Remembered(t, self.memory.of(t.name), course) for t in self.tracers]
            try:
                rows = list(scores_of(task)(tracers, course, self.cfg.seed, **how))
            except AllTraced:
                rows = []
        own = course.own_units()
        known = [unit for unit in own if unit not in course.traced | course.missing]
        if known and not course.recall_only:
            said = f"{len(known)} of {len(own)} units were already answered"
            self.console.print(said, **PLAIN)
        rows = [replace(row, seconds=t.seconds) for row, t in zip(rows, tracers, strict=False)]
        speed = {t.name: t.points / t.seconds if t.seconds else None for t in tracers}
        return Graded(task, rows, course, course.coverage(), speed)

    @contextmanager
    def _stoppable(self):
        """What was answered is on disk, however this ends."""
        try:
            yield
        except KeyboardInterrupt:
            self.console.print(f"stopped; {self.again}", **PLAIN)
            raise SystemExit(INTERRUPTED) from None
        finally:
            self.memory.flush()
