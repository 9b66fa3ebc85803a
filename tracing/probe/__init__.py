"""FlowProbe: zero-shot flow of the model in training, logged while training goes on."""

from tracing.probe.callback import FlowProbe
from tracing.probe.sets import ProbeSet, flow_folder, probe_set, synthetic, tapvid

__all__ = ["FlowProbe", "ProbeSet", "flow_folder", "probe_set", "synthetic", "tapvid"]
