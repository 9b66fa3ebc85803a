"""Tracers without a model of ours, all called like ``KLTracer``; ``baseline(name)`` builds one.

Most know nothing of occlusion and answer ``visible`` everywhere. ``python -m tracing.baselines``
lists what each needs, where its weights come from, and their licence.
"""

from tracing.baselines.best_translation import BestTranslation
from tracing.baselines.dis import DIS
from tracing.baselines.farneback import Farneback
from tracing.baselines.nearest_color import NearestPatchColor
from tracing.baselines.registry import baseline
from tracing.baselines.zero_motion import ZeroMotion

__all__ = ["DIS", "BestTranslation", "Farneback", "NearestPatchColor", "ZeroMotion", "baseline"]
