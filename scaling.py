"""Look back on a study: ``python scaling.py runs=DIR`` reads what its runs left behind.

Writes one page, runs.csv and every picture as PNG and SVG into DIR/report: fits of loss and flow
against parameters, tokens and FLOPs, IsoFLOP optima, and when flow emerged.
"""

import math
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig
from rich.console import Console

from doors import one_sentence
from studies.collect import chosen_set, collect
from studies.findings import findings
from studies.page import write_page
from studies.tables import sheets_of
from studies.texts import summary_of

WIDTH = 160  # columns, where no terminal says
FEWEST_DRAWS = 20  # resamples; of fewer, none lies outside a 95 % interval


def run(cfg: DictConfig, console: Console) -> list[Path]:
    """Collect, fit, say and write; returns what was written.

    Raises:
        ValueError: a key has a value that it cannot have, no runs are found or do not match, no run
            has that set, or ``out`` cannot be written.
    """
    check_words(cfg)
    study = collect(cfg.runs)
    found = findings(
        study, chosen_set(study, cfg.set), cfg.emergence_share, int(cfg.seed), int(cfg.num_draws)
    )
    out = Path(cfg.out) if cfg.out else study.root / "report"
    written = write_page(study, found, out)
    for sentence in summary_of(study, found):
        console.print(sentence, highlight=False, markup=False)
    for sheet in sheets_of(study, found):
        console.print(sheet.for_terminal())
    for name in study.unfinished:
        console.print(f"unfinished: {name}", highlight=False, markup=False)
    for sentence in study.damaged:
        console.print(f"left out: {sentence}", highlight=False, markup=False)
    return written


def check_words(cfg: DictConfig) -> None:
    """Raise ValueError where a key has a value that it cannot have."""
    if cfg.runs is None:
        raise ValueError(
            "runs is not given; name the folder of a study: python scaling.py runs=DIR"
        )
    for key in ("runs", "out"):
        if not isinstance(cfg[key], str | None):  # a name that hydra reads as a number
            raise ValueError(
                f"{key}={cfg[key]} is no text; name a folder, one called {cfg[key]} as "
                f"{key}=./{cfg[key]}."
            )
    if not (_is_number(cfg.emergence_share) and 0 < cfg.emergence_share < 1):
        raise ValueError(f"emergence_share={cfg.emergence_share} is no share of 1; set 0.5.")
    for key, least, usual in (("seed", 0, 0), ("num_draws", FEWEST_DRAWS, 500)):
        if not (_is_number(cfg[key]) and cfg[key] == int(cfg[key]) >= least):
            raise ValueError(
                f"{key}={cfg[key]} is no whole number from {least} on; set {key}={usual}."
            )


def _is_number(value: object) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)


@hydra.main(version_base="1.3", config_path="configs", config_name="scaling")
def main(cfg: DictConfig) -> None:
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    with one_sentence(lambda: None):
        for path in run(cfg, console):
            console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)


if __name__ == "__main__":
    main()
