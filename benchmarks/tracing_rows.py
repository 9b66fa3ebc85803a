"""The fast engine and the slow reference, in turn in one process: time, tokens, FLOPs, agreement.

The slow reference is ``tracing.trace.trace_point``: two whole predictions a query, with the orders
that the engine laid its query out in. A query's slow time is measured on few of the queries.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.meter import Meter
from benchmarks.tracing_layouts import LARGE, NANO, SEED, Layout, dense, random_pair, scattered
from lras.grid import PatchGrid
from lras.next_frame import NextFrame
from tracing.config import TracerConfig, Traces
from tracing.engine import EngineConfig, KLEngine
from tracing.layout import Group
from tracing.reading import Question
from tracing.readout import hidden_map
from tracing.trace import trace_point

REVEAL_RATIO = 0.1  # as published; one mask, since cost is counted per query and mask
RELATIVE, ABSOLUTE_NATS = 1e-5, 1e-6  # of the peak; |delta KL| may be the larger of the two
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "revealed before": {"revealed": "before"},
    "revealed clean": {"revealed": "clean"},
    "coarse to fine": {"search": "coarse_to_fine"},
    "before, coarse to fine": {"revealed": "before", "search": "coarse_to_fine"},
    "clean, coarse to fine": {"revealed": "clean", "search": "coarse_to_fine"},
    "window": {"window_px": 0.25},  # of the frame's side
    "flex attention": {},
}
SAME_QUESTION = ("exact", "flex attention")  # options that change no answer
BOTH = "before, coarse to fine"


@dataclass(frozen=True)
class Case:
    """A row of the table, and how often it is measured: ``pairs`` of fast and slow."""

    layout: Layout
    read_out: str
    option: str
    queries: int
    pairs: int = 1
    slow_queries: int = 1  # in each pair
    spread: str = "scattered"  # or dense: centers of neighboring patches

    @property
    def title(self) -> str:
        return f"{self.layout.name}, {self.read_out}, {self.option}, {self.spread}"

    def config(self) -> TracerConfig:
        how = dict(OPTIONS[self.option])
        if "window_px" in how:
            how["window_px"] *= self.layout.image_px
        given = {"num_masks": 1, "reveal_ratio": REVEAL_RATIO, "retry": False}
        return TracerConfig(read_out=self.read_out, **given, **how)


@dataclass
class Row:
    """What was measured of a case; tokens and FLOPs are per query."""

    case: Case
    queries: int  # traced by one call of the engine
    fast_tokens: float = 0.0
    slow_tokens: float = 0.0
    fast_flops: float = 0.0
    slow_flops: float = 0.0
    fast_seconds: list[float] = field(default_factory=list)  # per query, one for each pair
    slow_seconds: list[float] = field(default_factory=list)
    silent: int = 0  # queries whose tracer flipped no code: they cost nothing
    compared: int = 0  # queries whose maps were compared with the slow ones
    worst_difference: float = 0.0  # |delta KL| / what it may be
    same_argmax: int = 0
    smallest_peak_nats: float = float("inf")

    @property
    def bound(self) -> float:
        return self.slow_flops / self.fast_flops

    @property
    def ratio(self) -> float:
        pairs = zip(self.slow_seconds, self.fast_seconds, strict=True)
        return statistics.median(slow / fast for slow, fast in pairs)

    @property
    def efficiency(self) -> float:
        return self.ratio / self.bound

    def as_dict(self) -> dict:
        case = {k: v for k, v in asdict(self.case).items() if k not in ("layout", "queries")}
        shown = {k: v for k, v in asdict(self).items() if k != "case"}
        derived = {name: getattr(self, name) for name in ("bound", "ratio", "efficiency")}
        derived["points_per_second"] = 1 / statistics.median(self.fast_seconds)
        if not self.compared:
            shown["smallest_peak_nats"] = None
        return {"layout": self.case.layout.name} | case | shown | derived


class Watched(KLEngine):
    """The engine, which remembers what it was asked and who was traced together."""

    asked: tuple[Question, list[tuple[int, Group]]]

    def layout(self, question: Question) -> list[tuple[int, Group]]:
        self.asked = question, super().layout(question)
        return self.asked[1]


class Bench:
    """A model on a device, and one pair of frames that all cases of a layout ask about."""

    def __init__(self, layout: Layout, model: NextFrame, engine: EngineConfig | None = None):
        self.device = next(model.parameters()).device
        self.layout, self.model, self.engine = layout, model, engine or EngineConfig()
        self.meter = Meter(model)
        self.frame0, self.frame1 = random_pair(layout, str(self.device))
        self.grid = PatchGrid(*self.frame0.shape[-2:], model.patch_px, model.code_px)

    def points(self, case: Case) -> Float[Tensor, "1 points 2"]:
        if case.spread == "dense":
            return dense(self.grid, case.queries).to(self.device)
        return scattered(self.layout, case.queries).to(self.device)

    def fast(self, case: Case) -> Watched:
        return Watched(self.meter, case.config(), self.engine)

    def timed(self, run: Callable[..., Any], *given: Any) -> tuple[Any, float]:
        """What ``run`` answers, and its wall-clock seconds."""
        self._wait()
        start = time.perf_counter()
        found = run(*given)
        self._wait()
        return found, time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def set_attention(self, case: Case) -> None:
        self.model.attention = "flex" if case.option == "flex attention" else "auto"

    def slow_answer(self, engine: Watched, case: Case, number: int) -> Float[Tensor, "rows cols"]:
        """The slow reference's KL map of one query, laid out as the engine laid it out.

        Revealed positions are 0. Of a query that the engine asked nothing, any order will do.
        """
        question, groups = engine.asked
        masks = question.masks[0]
        own = [group.order0 for _, group in groups if bool((group.points == number).any())]
        orders = (own or [masks.order0[0]])[0], masks.order1[0]
        query, cfg = self.points(case)[0, number], engine.cfg
        frames = self.frame0[0], self.frame1[0]
        found, _ = trace_point(self.meter, *frames, query, masks.reveal[0], *orders, cfg)
        return torch.where(hidden_map(masks.reveal, self.grid, cfg)[0], found, 0.0)

    def measure(self, case: Case) -> Row:
        """All pairs of a case; on an accelerator after one call that is not measured."""
        points = self.points(case)
        count = points.shape[1]
        if self.device.type == "cuda":
            self.set_attention(case)
            self.fast(case)(self.frame0, self.frame1, points, SEED)
        row, engine = Row(case, count), self.fast(case)
        numbers = torch.arange(count).repeat(case.pairs * case.slow_queries // count + 1).tolist()
        for pair in range(case.pairs):
            self.set_attention(case)
            self.meter.reset()
            traces, seconds = self.timed(engine, self.frame0, self.frame1, points, SEED)
            row.fast_seconds.append(seconds / count)
            row.fast_tokens, row.fast_flops = self.meter.tokens / count, self.meter.flops / count
            row.silent = int((traces.flipped_codes == 0).sum())
            self.set_attention(SLOW)
            own = numbers[pair * case.slow_queries : (pair + 1) * case.slow_queries]
            self._slowly(row, engine, traces, own)
        return row

    def _slowly(self, row: Row, engine: Watched, traces: Traces, numbers: list[int]) -> None:
        """Ask the slow reference about some of the queries, and compare where it is the same."""
        spent = 0.0
        self.meter.reset()
        for number in numbers:
            slow, seconds = self.timed(self.slow_answer, engine, row.case, number)
            spent += seconds
            if row.case.option in SAME_QUESTION:
                compare(row, traces.maps[0, number], slow)
        row.slow_seconds.append(spent / len(numbers))
        row.slow_tokens = self.meter.tokens / len(numbers)
        row.slow_flops = self.meter.flops / len(numbers)


SLOW = Case(NANO, "all", "exact", 1)


def compare(row: Row, fast: Float[Tensor, "rows cols"], slow: Float[Tensor, "rows cols"]) -> None:
    """Put the difference of two maps of one query down in the row."""
    peak = float(slow.max())
    allowed = max(RELATIVE * peak, ABSOLUTE_NATS)
    row.compared += 1
    row.worst_difference = max(row.worst_difference, float((fast - slow).abs().max()) / allowed)
    row.same_argmax += int(fast.argmax() == slow.argmax())
    row.smallest_peak_nats = min(row.smallest_peak_nats, peak)


def quick_cases() -> list[Case]:
    """Under ten minutes on two cores: fewer queries and pairs, the same rows.

    FlexAttention is not compiled on a CPU and holds all scores: in the nano layout only.
    """
    large = [
        Case(LARGE, "first", "exact", 32, pairs=2, slow_queries=16),
        Case(LARGE, "first", BOTH, 32, pairs=3),
        *(Case(LARGE, "first", name, 32) for name in OPTIONS if name not in (*SAME_QUESTION, BOTH)),
        Case(LARGE, "all", "exact", 8, pairs=2, slow_queries=2),
        Case(LARGE, "all", BOTH, 8),
        *(Case(LARGE, "all", name, 8) for name in OPTIONS if name not in (*SAME_QUESTION, BOTH)),
        Case(LARGE, "first", BOTH, 100, spread="dense"),
        Case(LARGE, "all", BOTH, 36, spread="dense"),
    ]
    return [*large, *nano_cases(pairs=3)]


def whole_cases() -> list[Case]:
    """The same rows with 32 scattered queries and every patch of a frame, several pairs of each."""
    large = [
        Case(LARGE, read_out, name, 32, pairs=4, slow_queries=8 if name == "exact" else 1)
        for read_out in ("first", "all")
        for name in OPTIONS
    ]
    every = [
        Case(LARGE, read_out, name, 1024, pairs=2, slow_queries=16, spread="dense")
        for read_out in ("first", "all")
        for name in ("exact", BOTH)
    ]
    return [*large, *every, *nano_cases(pairs=5)]


def nano_cases(pairs: int) -> list[Case]:
    """Patches of one code: both read-outs are one."""
    rows = [Case(NANO, "all", name, 32, pairs=pairs, slow_queries=4) for name in OPTIONS]
    return [Case(NANO, "all", "exact", 1000, pairs=1, slow_queries=1000), *rows]
