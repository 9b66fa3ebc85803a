"""The baselines by name: what each needs, where its weights come from, and on what terms."""

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tracing.baselines.alltracker import AllTracker
from tracing.baselines.best_translation import BestTranslation
from tracing.baselines.cotracker3 import CoTracker3
from tracing.baselines.dis import DIS
from tracing.baselines.farneback import Farneback
from tracing.baselines.nearest_color import NearestPatchColor
from tracing.baselines.ptlflow_model import PTLFlow
from tracing.baselines.raft import RAFT
from tracing.baselines.zero_motion import ZeroMotion
from tracing.benchmarks.base import Tracer

NOTHING = "none"


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A tracer without a model of ours, and what must be known before it is used."""

    name: str
    build: Callable[..., Tracer]
    reference: str
    licence: str  # of code and weights, as their authors state it
    needs: str = "nothing more"  # beyond this repository's own dependencies
    package: str | None = None  # to be imported
    weights: str = NOTHING  # where they come from
    weights_file: str | None = None  # below torch.hub's folder, once they are here

    def at_hand(self) -> str:
        """Whether it can be used here and now: yes, or what is missing."""
        if self.package and importlib.util.find_spec(self.package) is None:
            return f"no: pip install {self.package}"
        if self.weights_file and not (Path(torch.hub.get_dir()) / self.weights_file).is_file():
            return "weights not here yet"
        return "yes" if self.weights_file or self.weights == NOTHING else "by model"


OPENCV = "Apache-2.0 (OpenCV)"
BASELINES = (
    Baseline(
        name="zero_motion", build=ZeroMotion, reference="every point stays", licence="MIT (ours)"
    ),
    Baseline(
        name="best_translation",
        build=BestTranslation,
        reference="one whole-pixel shift for all points",
        licence="MIT (ours)",
    ),
    Baseline(
        name="nearest_patch_color",
        build=NearestPatchColor,
        reference="the patch most alike",
        licence="MIT (ours)",
    ),
    Baseline(
        name="dis", build=DIS, reference="Kroeger et al. 2016, arXiv:1603.03590", licence=OPENCV
    ),
    Baseline(
        name="farneback",
        build=Farneback,
        reference="Farneback 2003, Two-frame motion estimation",
        licence=OPENCV,
    ),
    Baseline(
        name="raft",
        build=RAFT,
        reference="Teed and Deng 2020, arXiv:2003.12039",
        licence="BSD-3-Clause (torchvision); weights: terms of their training data may hold",
        weights="download.pytorch.org, by torchvision",
        weights_file="checkpoints/raft_large_C_T_V2-1bb1363a.pth",
    ),
    Baseline(
        name="ptlflow",
        build=PTLFlow,
        reference="Morimitsu 2021, github.com/hmorimitsu/ptlflow, and each model's paper",
        licence="Apache-2.0; its own weights CC BY-NC-SA; each model's own terms",
        needs="tracer.model=NAME tracer.ckpt=NAME; an environment of its own: it brings an OpenCV",
        package="ptlflow",
        weights="releases of PTLFlow, by itself",
    ),
    Baseline(
        name="cotracker3",
        build=CoTracker3,
        reference="Karaev et al. 2024, arXiv:2410.11831",
        licence="CC-BY-NC 4.0, code and weights",
        needs="torch.hub: network, or tracer.hub_dir=CLONE",
        weights="huggingface.co/facebook/cotracker3",
        weights_file="checkpoints/scaled_offline.pth",
    ),
    Baseline(
        name="alltracker",
        build=AllTracker,
        reference="Harley et al. 2025, arXiv:2506.07310",
        licence="MIT",
        needs="tracer.hub_dir=CLONE, CUDA",
        weights="huggingface.co/aharley/alltracker",
        weights_file="checkpoints/alltracker.pth",
    ),
)
NAMES = tuple(each.name for each in BASELINES)


def baseline(name: str, **options: Any) -> Tracer:
    """The tracer of that name; ``ptlflow:MODEL`` is short for ``ptlflow`` with ``model=MODEL``.

    Raises:
        ValueError: no such name or option, or what it needs is not to be had.

    Example:

    >>> from tracing.baselines import baseline
    >>> baseline("dis", enlarge=4).name
    'dis_x4'
    """
    name, _, model = name.partition(":")
    if model:
        options = {"model": model} | options
    build = find(name).build
    known = list(inspect.signature(build).parameters)
    for option in options:
        if option not in known:
            takes = f"takes {', '.join(known)}" if known else "has none"
            raise ValueError(f"tracer={name} has no option {option!r}; it {takes}.")
    return build(**options)


def find(name: str) -> Baseline:
    """What is known of the baseline of that name.

    Raises:
        ValueError: there is none.
    """
    for each in BASELINES:
        if each.name == name:
            return each
    near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0)
    raise ValueError(
        f"baseline {name!r} is not known, the nearest is {near[0]}; "
        "type python -m tracing.baselines for all of them."
    )
