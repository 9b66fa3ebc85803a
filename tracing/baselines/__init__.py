"""Tracers without a model; all are called like ``KLTracer`` and answer ``visible`` everywhere."""

from tracing.baselines.best_translation import BestTranslation
from tracing.baselines.dis import DIS
from tracing.baselines.nearest_color import NearestPatchColor
from tracing.baselines.zero_motion import ZeroMotion

__all__ = ["DIS", "BestTranslation", "NearestPatchColor", "ZeroMotion"]
