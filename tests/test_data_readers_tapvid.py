"""TAP-Vid pickles: what is read of them, one video at a time, and what is wrong with bad ones."""

import numpy as np
import pytest
import torch
from fake_datasets import as_jpegs, fake_track, write_tracks

from data.readers.tapvid import TrackFile, read_tracks


def test_a_dict_of_videos_keeps_its_names_and_order(tmp_path):
    videos = {"zebra": fake_track(seed=1), "ant": fake_track(size=(16, 20))}
    tracks = list(read_tracks(write_tracks(tmp_path / "davis.pkl", videos)))
    assert [track.name for track in tracks] == ["zebra", "ant"]
    for track, stored in zip(tracks, videos.values(), strict=True):
        frames = torch.from_numpy(stored["video"]).movedim(-1, 1)
        assert torch.equal(track.frames, frames) and track.frames.dtype == torch.uint8
        assert torch.equal(track.visible, ~torch.from_numpy(stored["occluded"]))


def test_points_are_raster_pixels_of_the_stored_frames(tmp_path):
    path = write_tracks(tmp_path / "a.pkl", [fake_track(shift=(2, 1), size=(24, 32))])
    (track,) = read_tracks(path)
    assert track.name == "video_000" and track.points.dtype == torch.float32
    steps = torch.arange(4)[:, None] * torch.tensor([2.0, 1.0])
    torch.testing.assert_close(track.points[0], torch.tensor([4.5, 5.5]) + steps)
    x, y = (track.points[0, 3] - 0.5).round().long().tolist()
    assert torch.equal(track.frames[3, :, y, x], track.frames[0, :, 5, 4])
    points, visible = TrackFile(path).tracks(0, (48, 64))
    torch.testing.assert_close(points, 2 * track.points)
    assert torch.equal(visible, track.visible)


@pytest.mark.parametrize("how", ["object", "bytes", "list"])
def test_jpeg_frames_are_decoded_in_rgb(how, tmp_path):
    track = fake_track()
    track["video"] = np.zeros_like(track["video"])
    track["video"][..., 0] = 200  # red
    (read,) = read_tracks(write_tracks(tmp_path / "k.pkl", [as_jpegs(track, how)]))
    assert read.frames.shape == (4, 3, 24, 32)
    red, green, blue = read.frames.float().mean((0, 2, 3)).tolist()
    assert red == pytest.approx(200, abs=5) and max(green, blue) < 5


def test_a_position_means_nothing_where_it_is_hidden(tmp_path):
    track = fake_track()
    track["points"][1, 0] = np.nan
    (read,) = read_tracks(write_tracks(tmp_path / "a.pkl", [track]))
    assert read.points.isfinite().all()


def test_videos_are_decoded_one_at_a_time(tmp_path):
    bad = as_jpegs(fake_track())
    bad["video"][2] = b"not a picture"
    tracks = read_tracks(write_tracks(tmp_path / "a.pkl", [as_jpegs(fake_track()), bad]))
    assert next(tracks).name == "video_000"
    with pytest.raises(ValueError, match="video_001: frame 2 is not a readable picture"):
        next(tracks)


def without(key):
    return {name: value for name, value in fake_track().items() if name != key}


def with_frames_of_two_sizes():
    track = as_jpegs(fake_track(), "list")
    return track | {
        "video": track["video"][:3] + as_jpegs(fake_track(size=(8, 8)))["video"][:1].tolist()
    }


BAD = {
    "a lone video": (fake_track, "holds a single video"),
    "an array": (lambda: np.zeros(3), "holds ndarray"),
    "no video": (dict, "holds no video"),
    "an empty list": (list, "holds no video"),
    "no key": (lambda: [without("occluded")], "video_000 holds video, points; expected"),
    "an entry of another kind": (lambda: {"x": [1]}, "x holds list; expected a dict"),
    "points of one frame": (
        lambda: [fake_track() | {"points": np.zeros((3, 2), np.float32)}],
        r"points are float32 \(3, 2\)",
    ),
    "integer points": (
        lambda: [fake_track() | {"points": np.zeros((3, 4, 2), int)}],
        "expected float",
    ),
    "occluded as numbers": (
        lambda: [fake_track() | {"occluded": np.zeros((3, 4))}],
        "expected bool",
    ),
    "other numbers of points": (
        lambda: [fake_track() | {"occluded": np.zeros((2, 4), bool)}],
        r"occluded bool \(2, 4\)",
    ),
    "too few frames": (
        lambda: [fake_track() | {"video": fake_track()["video"][:3]}],
        "3 frames but tracks over 4",
    ),
    "gray frames": (
        lambda: [fake_track() | {"video": fake_track()["video"][..., 0]}],
        r"expected \(time, h, w, 3\)",
    ),
    "float frames": (
        lambda: [fake_track() | {"video": fake_track()["video"] / 255}],
        "expected uint8 pixels or JPEG bytes",
    ),
    "points in pixels": (
        lambda: [fake_track() | {"points": 20 + fake_track()["points"]}],
        "expected shares",
    ),
    "unknown visible points": (
        lambda: [fake_track() | {"points": np.nan * fake_track()["points"]}],
        "visible points reach nan",
    ),
    "frames of two sizes": (lambda: [with_frames_of_two_sizes()], "of one size"),
    "names for frames": (
        lambda: [fake_track() | {"video": ["a.jpg"] * 4}],
        "frame 0 is not a readable picture",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_in_one_sentence_that_names_it(case, tmp_path):
    make, sentence = BAD[case]
    path = write_tracks(tmp_path / "bad.pkl", make())
    with pytest.raises(ValueError, match=sentence) as error:
        list(read_tracks(path))
    assert "bad.pkl" in str(error.value) and len(str(error.value).splitlines()) == 1


@pytest.mark.shared
@pytest.mark.parametrize("name, videos, points", [("short", 7, 7), ("long", 8, 105)])
def test_the_shared_files_hold_real_pairs(name, videos, points, shared_root):
    path = shared_root / "data" / "tracks" / f"tapvid_pairs_{name}.pkl"
    tracks = list(read_tracks(path))
    assert len(tracks) == videos and sum(len(track.points) for track in tracks) == points
    for track in tracks:
        assert track.frames.shape == (2, 3, 480, 854)
        assert track.visible[:, 0].all()
        shown = track.points[track.visible]
        assert (shown >= 0).all() and (shown <= torch.tensor([854.0, 480.0])).all()
