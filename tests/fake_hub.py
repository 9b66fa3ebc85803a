"""Stand-ins for what others publish: their true call signatures and layouts, no weights."""

from pathlib import Path

COTRACKER = '''
import torch

def cotracker3_offline(*, pretrained: bool = True, **kwargs):
    if pretrained:
        torch.hub.load_state_dict_from_url(
            "https://huggingface.co/facebook/cotracker3/resolve/main/scaled_offline.pth",
            map_location="cpu",
        )
    return Predictor()

class Predictor(torch.nn.Module):
    """Every point goes to the brightest pixel of frame 1; seen if its pixel of frame 0 is bright.

    Points count from the center of the first pixel: index [row i, column j] is (j, i).
    """

    def forward(
        self,
        video,
        queries=None,
        segm_mask=None,
        grid_size=0,
        grid_query_frame=0,
        backward_tracking=False,
    ):
        batch, frames, channels, height, width = video.shape
        assert channels == 3 and frames == 2 and batch == 1
        assert video.max() > 1, "frames are 0 to 255"
        assert (queries[..., 0] == 0).all() and queries.shape[-1] == 3
        brightest = video[0, 1].sum(0).flatten().argmax()
        there = torch.stack([brightest % width, brightest // width]).to(queries)
        at = queries[..., 1:]
        tracks = torch.stack([at, there.expand_as(at)], dim=1)
        columns, rows = at[0].round().long().unbind(-1)
        seen = video[0, 0, 0, rows, columns] > 127
        return tracks, torch.stack([seen, seen])[None]
'''

ALLTRACKER = '''
import torch

class Net(torch.nn.Module):
    """Red of frame 0 says how many px of the frames as shown go right, green how many go down.

    Blue of frame 0 is the visibility; every answer is sure.
    """

    def __init__(self, seqlen, use_attn=True, use_basicencoder=False, no_split=False):
        super().__init__()
        self.register_buffer("time_emb", torch.zeros(1, seqlen, 4))

    def forward(self, images, iters=6, sw=None, is_training=False, stride=None):
        batch, frames, channels, height, width = images.shape
        assert frames == 2 and channels == 3 and iters == 4 and not is_training
        assert images.max() > 1, "frames are 0 to 255"
        flow = images[:, 0, :2] * (10 / 255)
        visible = images[:, 0, 2:] / 255
        sure = torch.cat([visible, torch.ones_like(visible)], dim=1)
        return flow, sure, [flow], [sure]
'''


def write_cotracker(folder: Path) -> Path:
    """A clone of its repository, as torch.hub reads one."""
    folder.mkdir()
    (folder / "hubconf.py").write_text(COTRACKER)
    return folder


def write_alltracker(folder: Path) -> Path:
    """A clone of its repository: modules and no package."""
    (folder / "nets").mkdir(parents=True)
    (folder / "nets" / "alltracker.py").write_text(ALLTRACKER)
    return folder
