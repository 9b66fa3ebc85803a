"""A training budget, in tokens or in floating-point operations, as optimizer steps of each stage.

Sizes of a study are compared at matched data and schedule: every run goes through the same stages,
each of which takes the same share of whatever its run may spend.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from omegaconf import OmegaConf

from data.curriculum import Stage, SyntheticDataModule
from data.synthetic import SceneConfig
from doors.estimate import Work, plan_of
from lras.config import PredictorConfig
from lras.flops import training_flops

FEWEST_STEPS = 10  # of a stage; with fewer, rounding them is no longer a detail
UNITS = ("tokens", "flops")


@dataclass(frozen=True, kw_only=True)
class StageShare:
    """A stage of the curriculum that takes its share of the budget; else as ``Stage``."""

    share: float
    batch: int  # pairs per optimizer step, over all ranks and accumulated batches together
    frame1_share: float = 1.0
    scene: SceneConfig = field(default_factory=SceneConfig)

    def of(self, steps: int) -> Stage:
        """The stage at so many steps."""
        return Stage(
            steps=steps, batch=self.batch, frame1_share=self.frame1_share, scene=self.scene
        )


@dataclass(frozen=True)
class Spent:
    """Training up to some step."""

    steps: int
    tokens: int
    flops: int


def budgeted_scenes(
    stages: Sequence[StageShare],
    model: PredictorConfig,
    tokens: float | None = None,
    flops: float | None = None,
    limit: int | None = None,
    **options: Any,
) -> SyntheticDataModule:
    """Synthetic scenes whose stages share one budget of training; ``options`` as the data module's.

    ``limit``: tokens of a sequence, at most.

    Raises:
        ValueError: not exactly one budget is given, shares do not add up to 1, or a stage would
            have hardly any steps.
    """
    budget_of(tokens, flops)
    if abs(sum(stage.share for stage in stages) - 1) > 1e-6:
        raise ValueError(
            f"the stages' shares {[stage.share for stage in stages]} add up to "
            f"{sum(stage.share for stage in stages):g}, expected 1; change data.stages.N.share."
        )
    sized = [stage.of(steps_of(stage, model, tokens, flops, limit)) for stage in stages]
    for number, stage in enumerate(sized):
        if stage.steps < FEWEST_STEPS:
            asked = f"scaling.tokens={tokens:g}" if tokens else f"scaling.flops={flops:g}"
            least = (tokens or flops) * FEWEST_STEPS / max(1, stage.steps)
            raise ValueError(
                f"{asked} leaves {stage.steps} steps of {stage.batch} pairs to stage {number}, "
                f"fewer than {FEWEST_STEPS}; ask for about {least:.2g} or more."
            )
    return SyntheticDataModule(sized, **options)


def steps_of(
    stage: StageShare,
    model: PredictorConfig,
    tokens: float | None,
    flops: float | None,
    limit: int | None = None,
) -> int:
    """Optimizer steps of that stage, to the nearest whole one."""
    one = cost(stage.of(1), model, limit)
    spent = one.tokens if tokens is not None else one.flops
    return round(stage.share * (flops if tokens is None else tokens) / spent)


def cost(stage: Stage, model: PredictorConfig, limit: int | None = None) -> Spent:
    """All steps of a stage, forward and backward, causal convention (``lras.flops``)."""
    work = Work(
        steps=stage.steps,
        batch=stage.batch,
        size=stage.scene.size,
        share=stage.frame1_share,
        stage=stage,
        limit=limit,
    )
    return _cost(work, model)


def spent_at(
    step: int, data: SyntheticDataModule, model: PredictorConfig, limit: int | None = None
) -> Spent:
    """What a run on ``data`` has spent after ``step`` optimizer steps."""
    parts = [_cost(work, model) for work in plan_of(data, step, model, 1, 1, limit)]
    sums = (sum(getattr(part, name) for part in parts) for name in ("steps", "tokens", "flops"))
    return Spent(*sums)


def budget_of(tokens: float | None, flops: float | None) -> dict[str, float]:
    """The one budget that is given, by its unit.

    Raises:
        ValueError: both or none are, or it is not positive.
    """
    given = {unit: each for unit, each in zip(UNITS, (tokens, flops), strict=True) if each}
    if len(given) != 1 or min(given.values()) <= 0:
        raise ValueError(
            f"got scaling.tokens={tokens} and scaling.flops={flops}, expected exactly one positive "
            f"budget; set the other to null."
        )
    return given


def study_name(size: str, tokens: float | int | None, flops: float | int | None, seed: int) -> str:
    """The folder of one run in its study; budgets that contradict each other are told elsewhere.

    >>> study_name("d64x3", 2500000.0, None, 0), study_name("d64x3", None, 1e13, 3)
    ('d64x3-2.5e6tokens-seed0', 'd64x3-1e13flops-seed3')
    """
    given = zip(UNITS, (tokens, flops), strict=True)
    return "-".join(
        [size, *(f"{_short(each)}{unit}" for unit, each in given if each), f"seed{seed}"]
    )


def _short(number: float | int) -> str:
    """2500000.0 as 2.5e6, with all its digits."""
    return f"{Decimal(str(number)).normalize():e}".replace("+", "")


def _cost(work: Work, model: PredictorConfig) -> Spent:
    columns = model.num_codes if model.tied_head or model.positions == "rotary" else None
    columns = model.num_tokens if columns is None else columns
    pairs = work.batch * work.steps
    flops = training_flops(model, *work.patches(model), columns)
    return Spent(work.steps, pairs * work.tokens(model), pairs * flops)


OmegaConf.register_new_resolver("study_name", study_name, replace=True)
