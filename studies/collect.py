"""The runs of a study, from the ``study.json`` that each left behind."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from doors.run_record import RECORD
from studies.card import CARD, Card, SetFigures

SAME_FLOPS = 1.05  # budgets closer than this factor are compared as one
SAME_PX = 1e-4  # relative: two machines do not round alike


@dataclass(frozen=True)
class Run:
    """A finished run: its card, and its folder relative to the study's."""

    card: Card
    path: str

    @property
    def budget(self) -> str:
        """The budget asked for, as text: equal text, equal budget."""
        ((unit, amount),) = self.card.budget.items()
        return f"{powers(amount)} FLOPs" if unit == "flops" else f"{short(amount)} {unit}"

    @property
    def cell(self) -> tuple[str, str]:
        """What runs have in common that differ by their seed alone."""
        return self.card.size, self.budget

    @property
    def blocks(self) -> int:
        return self.card.parameters.blocks

    def figures(self, name: str) -> SetFigures | None:
        """The run's figures on a set; None where it was not asked, or has no finite error."""
        figures = self.card.sets.get(name)
        return figures if figures is not None and math.isfinite(figures.epe_px) else None


@dataclass(frozen=True)
class Study:
    """All that lies in one folder. Paths are relative to it."""

    root: Path
    runs: tuple[Run, ...]
    unfinished: tuple[str, ...]
    damaged: tuple[str, ...]  # a sentence for each card that cannot be read

    @property
    def sizes(self) -> list[str]:
        """Names of the sizes, the smallest first."""
        blocks = {run.card.size: run.blocks for run in self.runs}
        return sorted(blocks, key=lambda name: (blocks[name], name))

    @property
    def budgets(self) -> list[str]:
        """The budgets, token budgets first, the smallest first."""
        keys = {run.budget: _budget_order(run) for run in self.runs}
        return sorted(keys, key=lambda budget: keys[budget])

    @property
    def seeds(self) -> list[int]:
        return sorted({run.card.seed for run in self.runs})

    @property
    def sets(self) -> list[str]:
        """Names of the sets, in the order of the cards."""
        return list(dict.fromkeys(name for run in self.runs for name in run.card.sets))


def collect(root: str | Path) -> Study:
    """Read every card under ``root``, at any depth.

    Raises:
        ValueError: there is no such folder, no readable card in it, a run is there twice, or runs
            do not match: another model under one size's name, other points under one set's.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(
            f"runs={root} is no folder; give the folder of a study, e.g. runs/scaling."
        )
    runs, damaged = [], []
    for path in sorted(root.rglob(CARD)):
        try:
            runs.append(Run(Card.read(path), path.parent.relative_to(root).as_posix()))
        except (ValueError, OSError) as error:
            damaged.append(str(error))
    carded = {path.parent for path in root.rglob(CARD)}
    begun = sorted({path.parent for path in root.rglob(RECORD)} - carded)
    if not runs:
        rest = f" ({len(begun)} unfinished, {len(damaged)} damaged)" if begun or damaged else ""
        raise ValueError(
            f"runs={root} holds no finished run{rest}: no {CARD} that can be read; "
            "train some first: python train.py -m experiment=scaling"
        )
    _check_once(root, runs)
    _check_sizes(root, runs)
    _check_sets(root, runs)
    order = {
        run.path: (run.blocks, run.card.size, *_budget_order(run), run.card.seed) for run in runs
    }
    return Study(
        root=root,
        runs=tuple(sorted(runs, key=lambda run: order[run.path])),
        unfinished=tuple(path.relative_to(root).as_posix() for path in begun),
        damaged=tuple(damaged),
    )


def chosen_set(study: Study, name: str | None) -> str:
    """The set that flow is judged by; None takes the first of the cards.

    Raises:
        ValueError: no run has figures on it.
    """
    if not study.sets:
        raise ValueError(f"no run under {study.root} has figures on any set; set study.sets.")
    if name is not None and name not in study.sets:
        raise ValueError(
            f"set={name} is in none of the {len(study.runs)} runs; choose one of "
            f"{', '.join(study.sets)}."
        )
    return name or study.sets[0]


def flops_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs of one FLOP budget: asked for, or spent within 5 % of the least of the group."""
    groups: list[list[Run]] = []
    for run in sorted(runs, key=lambda run: (asked_flops(run), run.path)):
        if groups and asked_flops(run) <= SAME_FLOPS * asked_flops(groups[-1][0]):
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def asked_flops(run: Run) -> float:
    """The FLOP budget, or what was spent where tokens were the budget."""
    return run.card.budget.get("flops", run.card.flops)


def short(amount: float | int) -> str:
    """A large number in three digits: 1.32M, 5M, 1.5B."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if amount >= unit:
            return f"{amount / unit:.3g}{letter}"
    return f"{amount:.3g}"


def powers(flops: float) -> str:
    """The same of FLOPs, which are not counted in millions: 3e10, 1.25e13."""
    return f"{flops:.3g}".replace("e+", "e")


def _budget_order(run: Run) -> tuple[bool, float]:
    return "flops" in run.card.budget, next(iter(run.card.budget.values()))


def _check_once(root: Path, runs: Sequence[Run]) -> None:
    seen: dict[tuple, Run] = {}
    for run in runs:
        key = (*run.cell, run.card.seed)
        if (other := seen.setdefault(key, run)) is not run:
            raise ValueError(
                f"{root}: {other.path} and {run.path} are both {run.card.size}, {run.budget}, "
                f"seed {run.card.seed}; move one of them out of the folder."
            )


def _check_sizes(root: Path, runs: Sequence[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.card.size, run)
        if other.blocks != run.blocks:
            raise ValueError(
                f"{root}: {other.path} and {run.path} are both called {run.card.size} and have "
                f"{other.blocks:,} and {run.blocks:,} parameters in blocks; move one of them out "
                "of the folder, or train it again with another scaling.size."
            )


def _check_sets(root: Path, runs: Sequence[Run]) -> None:
    """Errors are compared over the same points only: there zero motion and the floor are equal."""
    seen: dict[tuple[str, str], Run] = {}
    for run in runs:
        for name, figures in run.card.sets.items():
            for field in ("zero_epe_px", "floor_px"):
                other, own = seen.setdefault((name, field), run), getattr(figures, field)
                theirs = getattr(other.card.sets[name], field)
                both_unknown = math.isnan(own) and math.isnan(theirs)
                if not both_unknown and not math.isclose(own, theirs, rel_tol=SAME_PX):
                    raise ValueError(
                        f"{root}: {field} of set {name} is {theirs:.6g} in {other.path} and "
                        f"{own:.6g} in {run.path}, so their points or their grids are not the "
                        "same; move one of them out of the folder."
                    )
