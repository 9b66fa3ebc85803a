"""Where the figures of a run go: into its folder always, to W&B and TensorBoard on request.

Each of our loggers takes metrics, pictures (``log_image``), tables (``log_table``) and final
figures (``log_summary``), on rank 0 only. Stock Lightning loggers do too, as far as they can.
"""

from collections.abc import Iterable
from typing import Any

from lightning.pytorch.loggers import Logger


def log_config(loggers: Iterable[Logger], config: dict[str, Any]) -> None:
    """Tell every logger the run's resolved config, a plain nested dict, as hyperparameters."""
    for logger in loggers:
        logger.log_hyperparams(config)


def log_final(loggers: Iterable[Logger], figures: dict[str, float], config: dict[str, Any]) -> None:
    """Write the final figures and the config into every run summary, and close the loggers.

    Anything that float() takes is a figure. Nothing may be logged afterwards.
    """
    values = {key: float(value) for key, value in figures.items()}
    for logger in loggers:
        logger.log_hyperparams(config)
        if hasattr(logger, "log_summary"):
            logger.log_summary(values)
        if hasattr(logger, "close"):
            logger.close()
