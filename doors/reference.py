"""The reference models of ``checkpoints/``: which one is asked where nobody names another."""

from pathlib import Path

from tracing.benchmarks.line_up import MODEL_TRACERS

CHECKPOINTS = Path(__file__).resolve().parents[1] / "checkpoints"
BEST = "lras_nano"  # of those folders
AUTO = "auto"
# What ``python eval.py`` without arguments stands for: 64 points that take a minute or two on two
# cores. They are words like any others, so the command that results.json keeps is the whole of it.
FIRST_LOOK = ("scene=hard", "num_pairs=16", "tracer.cfg.num_masks=4")


def chosen_ckpt(ckpt: str | None, tracer: str) -> str | None:
    """``ckpt`` as it is; for ``auto`` the best reference model, where the tracer asks a model.

    Raises:
        ValueError: the reference model is asked for, and is not there.
    """
    if ckpt != AUTO:
        return ckpt
    if tracer not in MODEL_TRACERS:
        return None
    folder = CHECKPOINTS / BEST
    if not folder.is_dir():
        raise ValueError(
            f"tracer={tracer} needs a model and the reference model is not at {folder}; restore "
            f"checkpoints/ from the repository, pass ckpt=RUN, or choose tracer=dis."
        )
    return str(folder)
