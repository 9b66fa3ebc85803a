"""A stand-in for the package PTLFlow 0.4: the calls it is asked by, and a flow that is known."""

from urllib.error import URLError

import torch

PUBLISHED = {"things": "https://github.com/hmorimitsu/ptlflow/releases/download/w/raft-things.ckpt"}


class Model(torch.nn.Module):
    """u is red of frame 0 and v is blue of frame 1, both of BGR frames in [0, 1]."""

    pretrained_checkpoints = PUBLISHED

    def forward(self, inputs):
        images = inputs["images"]
        assert images.shape[1:3] == (2, 3), "batch, two frames, channels"
        assert min(images.shape[-2:]) >= 128
        return {"flows": torch.stack([images[:, :1, 2], images[:, 1:, 0]], dim=2)}


def get_model_names():
    return ["raft", "raft_small", "sea_raft_m"]


def get_model_reference(model_name):
    return Model


def get_model(model_name, ckpt_path=None, args=None):
    if ckpt_path == "things":
        return Model()
    if ckpt_path == "far_away":
        raise URLError("no route to host")
    raise ValueError(f"Invalid checkpoint name {ckpt_path}. Choose one from {{things}}")
