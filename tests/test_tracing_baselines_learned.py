"""Baselines with weights: padding, coordinates and what is said when they are not to be had."""

import sys
from urllib.error import URLError

import pytest
import torch

from tests import fake_ptlflow
from tests.fake_hub import write_alltracker, write_cotracker
from tracing.baselines.alltracker import AllTracker
from tracing.baselines.cotracker3 import CoTracker3
from tracing.baselines.padding import pad_frames
from tracing.baselines.ptlflow_model import PTLFlow
from tracing.baselines.raft import RAFT


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No weights on this machine, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))

    def fail(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)


@pytest.fixture
def weights_at_hand(monkeypatch):
    """torch.hub finds what the fakes need: nothing, and one buffer for AllTracker."""
    buffers = {"model": {"time_emb": torch.zeros(1, 16, 4)}}
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *args, **kwargs: buffers)


@pytest.fixture
def clean_modules():
    """Forget what a fake clone brought in under a generic name."""
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "nets"]:
        del sys.modules[name]


@pytest.fixture
def ptlflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "ptlflow", fake_ptlflow)
    monkeypatch.setattr(fake_ptlflow, "__spec__", object(), raising=False)


def one_sentence(error):
    said = str(error.value)
    assert "\n" not in said and said.endswith(".") and ". " not in said
    return said


@pytest.mark.parametrize("hw", [(128, 136), (40, 300), (131, 129), (1, 1)])
def test_padding_repeats_the_border_and_says_where_the_frames_lie(hw):
    frames = noise(2, 3, *hw)
    padded, (rows, cols) = pad_frames(frames, multiple_px=8, least_px=128)
    assert all(side % 8 == 0 and side >= 128 for side in padded.shape[-2:])
    assert torch.equal(padded[..., rows, cols], frames)
    assert torch.equal(padded[..., 0, 0], frames[..., 0, 0])
    assert torch.equal(padded[..., -1, -1], frames[..., -1, -1])
    spare = padded.shape[-1] - hw[1]
    assert spare // 2 == cols.start  # as much on the left as on the right


def red_is_flow(first, second, num_flow_updates):
    """u is red of frame 0, v is blue of frame 1, as they are given."""
    assert num_flow_updates == 5
    assert all(side % 8 == 0 and side >= 128 for side in first.shape[-2:])
    flow = torch.stack([first[:, 0], second[:, 2]], dim=1)
    return [torch.zeros_like(flow), flow]  # the last refinement counts


@pytest.mark.parametrize("hw", [(90, 201), (136, 128)])
def test_raft_is_shown_padded_frames_in_its_own_range_and_answers_where_it_was_asked(hw):
    tracer = RAFT("raft_small", weights=None, num_updates=5)
    tracer.network = red_is_flow
    frame0, frame1 = noise(2, 2, 3, *hw)
    flow = tracer.dense_flow(frame0, frame1)
    expected = torch.stack([frame0[:, 0], frame1[:, 2]], dim=1) * 2 - 1
    torch.testing.assert_close(flow, expected)
    points = torch.tensor([[[7.5, 3.5], [200.5, 80.5]], [[0.5, 0.5], [100.0, 50.0]]])
    moved = tracer(frame0, frame1, points).xy - points
    inside = min(200, hw[1] - 1)
    torch.testing.assert_close(moved[0, 0], expected[0, :, 3, 7], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[0, 1], expected[0, :, 80, inside], atol=1e-4, rtol=0)
    between = expected[1, :, 49:51, 99:101].mean((1, 2))
    torch.testing.assert_close(moved[1, 1], between, atol=1e-4, rtol=0)


def test_the_network_of_torchvision_takes_small_frames_of_any_shape():
    torch.manual_seed(0)
    tracer = RAFT("raft_small", weights=None, num_updates=1)
    assert tracer.name == "raft_small"
    assert tracer.dense_flow(*noise(2, 1, 3, 30, 41)).shape == (1, 2, 30, 41)


def test_weights_of_raft_that_cannot_be_downloaded_are_told_in_one_sentence(offline):
    with pytest.raises(ValueError, match="could not be read or downloaded") as error:
        RAFT("raft_small")
    said = one_sentence(error)
    assert "https://download.pytorch.org/models/raft_small_C_T_V2" in said
    assert "torch_home/hub/checkpoints" in said


def test_ptlflow_is_shown_bgr_and_its_answer_is_cropped_back(ptlflow):
    tracer = PTLFlow("raft", "things")
    frame0, frame1 = noise(2, 2, 3, 40, 150)
    expected = torch.stack([frame0[:, 0], frame1[:, 2]], dim=1)
    assert torch.equal(tracer.dense_flow(frame0, frame1), expected)
    assert tracer.name == "ptlflow_raft"


@pytest.mark.parametrize(
    "given, told",
    [
        (("raft_smal", "things"), "for example raft_small"),
        ((None, "things"), "tracer.model=NAME"),
        (("raft", None), "tracer.ckpt=NAME, one of things, or a file"),
        (("raft", "thing"), "Invalid checkpoint name thing"),
        (("raft", "far_away"), "no route to host"),
    ],
)
def test_what_ptlflow_does_not_have_is_told_in_one_sentence(ptlflow, given, told):
    with pytest.raises(ValueError) as error:
        PTLFlow(*given)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_ptlflow_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ptlflow", None)
    with pytest.raises(ValueError, match="pip install ptlflow"):
        PTLFlow("raft", "things")


def test_cotracker3_is_asked_from_pixel_centers_and_answers_in_raster_pixels(
    tmp_path, weights_at_hand
):
    tracer = CoTracker3(write_cotracker(tmp_path / "co-tracker"))
    frame0, frame1 = torch.zeros(2, 2, 3, 16, 24)
    frame0[0, :, 3, 7] = 1  # row 3, column 7: center (7.5, 3.5)
    frame1[0, :, 12, 20] = frame1[1, :, 5, 9] = 1
    points = torch.tensor([[[7.5, 3.5], [8.5, 3.5]]]).repeat(2, 1, 1)
    traces = tracer(frame0, frame1, points)
    assert traces.xy.tolist() == [[[20.5, 12.5]] * 2, [[9.5, 5.5]] * 2]
    assert traces.visible.tolist() == [[True, False], [False, False]]
    assert tracer(frame0, frame1, points[:, :0]).xy.shape == (2, 0, 2)


def test_cotracker3_without_network_says_where_code_and_weights_go(tmp_path, offline, monkeypatch):
    with pytest.raises(ValueError, match=r"git clone .*tracer\.hub_dir=DIR") as error:
        CoTracker3(tmp_path / "not_there")
    one_sentence(error)
    with pytest.raises(ValueError, match=r"no route.*scaled_offline\.pth into .*torch_home"):
        CoTracker3(write_cotracker(tmp_path / "co-tracker"))


@pytest.fixture
def alltracker(tmp_path, weights_at_hand, clean_modules):
    clone = write_alltracker(tmp_path / "alltracker")
    return lambda input_hw: AllTracker(clone, input_hw, device="cpu")


def ramp(height, width):
    """Red grows to the right from 0 to 1, green is 0.25, blue is 1 in the left half."""
    frame = torch.zeros(1, 3, height, width)
    frame[:, 0] = (torch.arange(width) + 0.5) / width
    frame[:, 1], frame[..., 2, :, : width // 2] = 0.25, 1
    return frame


@pytest.mark.parametrize("input_hw", [None, (48, 64), (12, 20)])
def test_alltracker_answers_in_px_of_the_frames_whatever_size_it_is_shown(alltracker, input_hw):
    frame = ramp(24, 32)
    rows, cols = input_hw or (24, 32)
    points = torch.tensor([[[8.0, 12.0], [24.0, 6.0]]])
    traces = alltracker(input_hw)(frame, frame, points)
    expected = torch.tensor([[[2.5 * 32 / cols, 2.5 * 24 / rows], [7.5 * 32 / cols, 60 / rows]]])
    torch.testing.assert_close(traces.xy - points, expected, atol=2e-3, rtol=0)
    assert traces.visible.tolist() == [[True, False]]


@pytest.mark.parametrize("input_hw", [None, (48, 64)])
def test_the_dense_flow_of_alltracker_is_its_answer_at_pixel_centers(alltracker, input_hw):
    frame, tracer = ramp(24, 32), alltracker(input_hw)
    points = torch.tensor([[[0.5, 0.5], [17.5, 20.5], [31.5, 23.5]]])
    moved = tracer(frame, frame, points).xy - points
    flow = tracer.dense_flow(frame, frame)
    assert flow.shape == (1, 2, 24, 32)
    at = torch.stack([flow[0, :, 0, 0], flow[0, :, 20, 17], flow[0, :, 23, 31]])
    torch.testing.assert_close(moved[0], at, atol=1e-4, rtol=0)


def test_alltracker_says_what_it_lacks(tmp_path, offline, clean_modules, monkeypatch):
    with pytest.raises(ValueError, match=r"git clone https://.*tracer\.hub_dir=DIR") as error:
        AllTracker()
    one_sentence(error)
    clone = write_alltracker(tmp_path / "alltracker")
    with pytest.raises(ValueError, match=r"alltracker\.pth and put it into .*torch_home") as error:
        AllTracker(clone, device="cpu")
    one_sentence(error)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="needs a CUDA device") as error:
        AllTracker(clone)
    one_sentence(error)


def test_a_clone_whose_requirements_are_missing_says_what_to_install(
    tmp_path, weights_at_hand, clean_modules
):
    clone = write_alltracker(tmp_path / "alltracker")
    (clone / "nets" / "alltracker.py").write_text("import surely_not_installed")
    with pytest.raises(ValueError, match=r"surely_not_installed.*pip install -r"):
        AllTracker(clone, device="cpu")
