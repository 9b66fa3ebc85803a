"""Run folders with a card each, from laws that a test knows."""

from pathlib import Path

import numpy as np

from studies.card import CARD, Card, CurveFigures, CurvePoint, Parameters, SetFigures

ZERO_PX, FLOOR_PX = 8.0, 0.25
SIZES = {f"d{2 ** (5 + i)}": 60_000 * 4**i for i in range(6)}


def curve(epes: list[float], tokens: int = 1_000_000, blocks: int = 60_000, name: str = "easy"):
    """Probes at equal distances, the first before training."""
    points = []
    for place, epe in enumerate(epes):
        seen = tokens * place // max(1, len(epes) - 1)
        figures = {name: CurveFigures(epe_px=float(epe), zero_epe_px=ZERO_PX, hit=0.5)}
        spent = 6.0 * blocks * seen
        points.append(CurvePoint(step=seen // 1000, tokens=seen, flops=spent, sets=figures))
    return tuple(points)


def card(**changes) -> Card:
    """A run of 1M tokens with flow from the third of four probes on."""
    known = {"size": "d32", "seed": 0, "blocks": 60_000, "tokens": 1_000_000, "epe": 1.0} | changes
    blocks, tokens, epe = known.pop("blocks"), known.pop("tokens"), known.pop("epe")
    parameters = Parameters(blocks=blocks, embeddings=1000, head=0, total=blocks + 1000)
    figures = SetFigures(
        points=128,
        epe_px=epe,
        epe_ci95_px=(0.9 * epe, 1.1 * epe),
        ad_px=4 * epe,
        delta_avg=0.5,
        hit=0.75,
        zero_epe_px=ZERO_PX,
        floor_px=FLOOR_PX,
    )
    fields = {
        "parameters": parameters,
        "budget": {"tokens": float(tokens)},
        "tokens": tokens,
        "flops": 6.0 * blocks * tokens,
        "steps": tokens // 1000,
        "seconds": 12.5,
        "loss_nats": 2.0,
        "sets": {"easy": figures},
        "curve": curve([9.0, 8.0, 3.0, epe], tokens, blocks),
        "git_sha": "0123abc",
        "machine": "two cores & a <fan>",
        "command": "python train.py -m experiment=scaling",
    }
    return Card(**(fields | known))


def write(root: Path, made: Card, folder: str | None = None) -> Path:
    """The card in a run folder of its own; that folder."""
    ((unit, amount),) = made.budget.items()
    run = root / (folder or f"{made.size}-{amount:g}{unit}-seed{made.seed}")
    run.mkdir(parents=True)
    made.write(run / CARD)
    return run


def write_study(root: Path, law, budgets=(1e6, 4e6), seeds: int = 3, sizes=SIZES, unit="tokens"):
    """Every size x budget x seed; ``law(blocks, tokens, generator)`` gives (loss, EPE)."""
    generator = np.random.default_rng(0)
    for size, blocks in sizes.items():
        for budget in budgets:
            tokens = int(budget if unit == "tokens" else budget / (6 * blocks))
            for seed in range(seeds):
                loss, epe = law(blocks, tokens, generator)
                made = card(
                    size=size,
                    seed=seed,
                    blocks=blocks,
                    tokens=tokens,
                    epe=float(epe),
                    loss_nats=float(loss),
                    budget={unit: float(budget)},
                )
                write(root, made)
