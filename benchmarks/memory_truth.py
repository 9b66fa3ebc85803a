"""The memory that training steps take, measured on real tensors, for what was planned to doubt."""

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributed._tools.mem_tracker import MemTracker

from doors.estimate import Work
from doors.memory_plan import forward_backward, num_bytes, predictor_of, seen_impl, tracked_peak


def true_peak(cfg: DictConfig, work: Work, pairs: int) -> int:
    """Bytes at the fullest moment of two whole steps on a CPU, by torch's tracker.

    The second step finds the gradients and the optimizer's states that the first one left. The loss
    is one whose inner tensors the tracker sees.
    """
    cfg = cfg.copy()
    cfg.loss.impl = seen_impl(cfg.loss.impl)
    predictor = predictor_of(cfg, "cpu")
    optimizer = instantiate(cfg.optimizer)(predictor)
    tracker = MemTracker()
    tracker.track_external(predictor, optimizer)
    with tracker:
        for _ in range(2):
            tracker.reset_mod_stats()
            forward_backward(cfg, work, pairs, predictor)
            optimizer.step()
    with torch.device("meta"):
        quantizer = instantiate(cfg.model.quantizer, _convert_="object")
    return tracked_peak(tracker) + num_bytes([*quantizer.parameters(), *quantizer.buffers()])
