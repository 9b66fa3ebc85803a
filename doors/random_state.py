"""The random state of a run, kept in its checkpoints: whoever draws goes on where it stopped."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch


class RandomState(L.Callback):
    """Python's, NumPy's and torch's generators, as they are on rank 0, for all ranks.

    Nothing of ours draws from them while a predictor trains: scenes, orders and masks are functions
    of (seed, step). It is what a callback or a layer of yours draws from.
    """

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        name, keys, place, has_gauss, gauss = np.random.get_state()  # noqa: NPY002
        version, words, left = random.getstate()
        return {
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            "numpy": [name, torch.from_numpy(keys.astype(np.int64)), place, has_gauss, gauss],
            "python": [version, torch.tensor(words), left],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._kept = state_dict

    def on_train_batch_start(self, *_: Any) -> None:
        """At the last moment: building a model and opening its data draw too."""
        if not self._kept:
            return
        state, self._kept = self._kept, {}
        torch.set_rng_state(state["torch"].cpu())
        if state["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"].cpu())
        name, keys, *numbers = state["numpy"]
        np.random.set_state((name, keys.numpy().astype(np.uint32), *numbers))  # noqa: NPY002
        version, words, left = state["python"]
        random.setstate((version, tuple(words.tolist()), left))
