"""Tracers that answer from disk what they were asked before, and the course through the parts.

``Course`` hands a task its parts one after the other and knows which one is being asked for;
``Remembered`` stands in for each tracer. Together they make an evaluation that goes on after a
kill, that several processes share, and that knows how much of it is there.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from data.types import PointPairs
from tracing.asking import Tell
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.predictions import Given, Key, TracerAnswers
from tracing.config import Traces


class Shard(NamedTuple):
    """The share of one process: units ``index``, ``index + count``, ... by first appearance."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


class AllTraced(Exception):
    """Ends a scoring after its last part, where answers are wanted and no scores yet."""


class Course:
    """The parts of a task in order, and what is known of each.

    Args:
        parts: a sequence of ``PointPairs``, each read when it is asked for and not before. Its
            ``names_of_parts``, where it has them, spare a process the reading of others' parts.
        seed: part i is traced with ``seed + i``, as tasks do.
        shard: only these units are traced; the others get answers that mean nothing, and
            ``AllTraced`` is raised in place of a score.
        recall_only: nothing is traced; ``AllTraced`` is raised if answers are missing.
        any_seed: answers are recalled whatever their seed: of a task with fewer parts than were
            traced, where the seeds would be others.
        tell: told of every part that is done.
    """

    def __init__(
        self,
        parts: Sequence,
        seed: int,
        *,
        shard: Shard | None = None,
        recall_only: bool = False,
        any_seed: bool = False,
        tell: Tell | None = None,
    ) -> None:
        self.parts, self.seed, self.shard = parts, seed, shard
        self.recall_only, self.any_seed, self.tell = recall_only, any_seed, tell
        self.part: PointPairs | None = None
        self.name = ""
        self.places: list[tuple[int, int, str]] = []  # part, place in it, unit; of each frame pair
        self.order: dict[str, int] = {}  # units by first appearance
        self.traced: set[str] = set()  # units that something was traced of
        self.missing: set[str] = set()  # units whose answers are wanted and not there
        self.missed = False
        self._frames: str | None = None

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[PointPairs]:
        names = getattr(self.parts, "names_of_parts", None)  # known without reading any
        stand_in: PointPairs | None = None
        for index in range(len(self.parts)):
            foreign = False
            if names is not None:
                self._begin(names[index])
                foreign = self.skips() and stand_in is not None
            part = replace(stand_in, name=names[index]) if foreign else self.parts[index]
            stand_in = part
            self._begin(part.name)
            self.part = part
            unit = unit_of(part.name)
            self.places += [(index, place, unit) for place in range(len(part.points))]
            yield part
            if self.tell is not None:
                self.tell(1, not self.missed)
        self.part, self.name = None, ""
        if self.shard is not None or self.missing:
            raise AllTraced

    def _begin(self, name: str) -> None:
        self.order.setdefault(unit_of(name), len(self.order))
        self.name, self.missed, self._frames = name, False, None

    def skips(self) -> bool:
        """Whether the part that is asked for now belongs to another process."""
        return bool(self.name) and self._is_foreign(unit_of(self.name))

    def _is_foreign(self, unit: str) -> bool:
        if self.shard is None:
            return False
        return self.order[unit] % self.shard.count != self.shard.index

    def own_units(self) -> list[str]:
        """Those that this process answers for, as far as they have been asked for."""
        return [unit for unit in self.order if not self._is_foreign(unit)]

    def question(
        self, frame0: Tensor, frame1: Tensor, points: Tensor, seed: int
    ) -> tuple[str, Key]:
        """The unit that a question is filed under, and what tells it from every other question.

        Questions about other frames than the part's, such as those of a file that thresholds are
        chosen on, are filed under a name made of their frame 0.
        """
        own = self.part is not None and frame0 is self.part.frame0 and frame1 is self.part.frame1
        if own:
            self._frames = self._frames or _digest(frame0, frame1)
            frames, unit = self._frames, unit_of(self.name)
        else:
            frames, unit = _digest(frame0, frame1), f"apart_{_digest(frame0)}"
        asked = hashlib.sha1(f"{self.name if own else ''}\n{frames}\n{_digest(points)}".encode())
        return unit, Key(seed, asked.hexdigest()[:20])

    def answered(self, unit: str, how: Literal["traced", "missing"]) -> None:
        """Note that an answer was ``traced`` just now, or is ``missing``."""
        if self.name:
            (self.traced if how == "traced" else self.missing).add(unit)
            self.missed = True

    def coverage(self) -> dict[str, Any]:
        """How much of what is asked for is answered, JSON-ready."""
        there = len(self.order) - len(self.missing)
        share = there / len(self.order) if self.order else 0.0
        return {"units": there, "of_units": len(self.order), "share": share}


class Remembered:
    """A tracer that asks its memory first.

    It has every attribute that the tracer has, such as ``input_hw`` and ``forward_only``. KL maps
    are not kept, so ``maps`` is always None. ``seconds`` is the wall time that the answers took
    when they were traced, ``points`` their number.
    """

    def __init__(self, tracer: Tracer, answers: TracerAnswers, course: Course) -> None:
        self.tracer, self.answers, self.course = tracer, answers, course
        self.name, self.needs_model = tracer.name, tracer.needs_model
        self.seconds, self.points = 0.0, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["tracer"], name)

    def __call__(
        self,
        frame0: Float[Tensor, "batch 3 height width"],
        frame1: Float[Tensor, "batch 3 height width"],
        points: Float[Tensor, "batch points 2"],
        seed: int = 0,
    ) -> Traces:
        """The answer, from memory if it is there.

        Raises:
            ValueError: the tracer's answer is not finite, or not one for each point; an answer
                that scores cannot do without is missing and must not be traced.
        """
        if self.course.skips():
            return _stand_in(points)
        unit, key = self.course.question(frame0, frame1, points, seed)
        given = self.answers.recall(unit, key, self.course.any_seed)
        if given is None and self.course.recall_only:
            if not self.course.name:  # no part that could be left out of the scores
                raise ValueError(
                    f"answers of {self.name} to what stands beside the parts, such as "
                    "task.calibrate_on, are missing and grade_only=true traces nothing; leave it "
                    "out once."
                )
            self.course.answered(unit, "missing")
            return _stand_in(points)
        if given is None:
            start = time.perf_counter()
            traces = self.tracer(frame0, frame1, points, seed=seed)
            xy = traces.xy.cpu()  # waits for the device, so the clock is right
            seconds = time.perf_counter() - start
            check_answer(self.name, xy, points, self.course.name)
            given = Given(_moved(traces, "cpu"), seconds)
            self.answers.keep(unit, key, given)
            self.course.answered(unit, "traced")
        self.seconds += given.seconds
        self.points += points.shape[0] * points.shape[1]
        return _moved(given.traces, points.device)


def check_answer(tracer: str, xy: Tensor, points: Tensor, part: str) -> None:
    """Raise ValueError unless there is a finite position for each point."""
    where = f" of {part}" if part else ""
    if xy.shape != points.shape:
        raise ValueError(
            f"tracer {tracer} gave positions of shape {tuple(xy.shape)} for points{where} of shape "
            f"{tuple(points.shape)}; it must answer one (x, y) for each point, so mend the tracer."
        )
    if bad := int((~torch.isfinite(xy)).any(-1).sum()):
        raise ValueError(
            f"tracer {tracer} gave positions that are NaN or infinite for {bad} of "
            f"{xy.shape[0] * xy.shape[1]} points{where}, which cannot be scored; mend the tracer "
            "(a model: try dtype=float32) or leave it out with compare=false tracer=NAME."
        )


def unit_of(name: str) -> str:
    """The video or frame pair that a part belongs to: its name up to the first slash."""
    return name.split("/", 1)[0]


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha1()
    for tensor in tensors:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(np_bytes(tensor))
    return digest.hexdigest()[:20]


def np_bytes(tensor: Tensor) -> memoryview:
    """What a tensor holds, as bytes."""
    return memoryview(tensor.detach().cpu().contiguous().numpy()).cast("B")


def _moved(traces: Traces, device: Any) -> Traces:
    fields = {name: value for name, value in vars(traces).items() if name != "maps"}
    there = {n: v.to(device) if isinstance(v, Tensor) else v for n, v in fields.items()}
    return Traces(**there)


def _stand_in(points: Tensor) -> Traces:
    """An answer of the right shape that nobody will score."""
    return Traces(xy=points.clone(), visible=torch.ones_like(points[..., 0], dtype=torch.bool))
