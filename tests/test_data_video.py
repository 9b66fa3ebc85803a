"""Decoding: the right frames, upright, square, and one sentence for what is no video."""

import pytest
import torch
from fake_datasets import noise_video, rotate_on_display, write_sound, write_video
from fake_videos import write_timed_video

from data.video import VideoFrames, read_video
from data.video import write_video as write_mp4


def test_a_lossless_square_video_comes_back_bit_for_bit(tmp_path):
    frames = noise_video(5, 16, 16)
    clip = read_video(write_video(tmp_path / "noise.mkv", frames), size=16)
    assert torch.equal(clip.frames, frames)
    assert (clip.fps, clip.name) == (30.0, "noise")


def test_the_center_square_is_kept(tmp_path):
    frames = noise_video(2, 16, 24)
    clip = read_video(write_video(tmp_path / "wide.mkv", frames), size=16)
    assert torch.equal(clip.frames, frames[..., 4:20])


def test_the_short_side_is_resized(tmp_path):
    gray = torch.full((2, 3, 32, 48), 77, dtype=torch.uint8)
    clip = read_video(write_video(tmp_path / "gray.mkv", gray), size=8)
    assert clip.frames.shape == (2, 3, 8, 8)
    assert (clip.frames.int() - 77).abs().max() <= 1


@pytest.mark.parametrize(
    ("options", "kept", "fps"),
    [
        ({"stride": 3}, [0, 3, 6, 9], 10.0),
        ({"fps": 15.0}, [0, 2, 4, 6, 8, 10], 15.0),
        ({"fps": 20.0}, [0, 2, 3, 5, 6, 8, 9, 11], 20.0),
        ({"fps": 60.0}, list(range(12)), 30.0),
        ({"max_frames": 2}, [0, 1], 30.0),
    ],
)
def test_frames_are_thinned_out_in_time(tmp_path, options, kept, fps):
    frames = noise_video(12, 16, 16)
    clip = read_video(write_video(tmp_path / "noise.mkv", frames), size=16, **options)
    assert torch.equal(clip.frames, frames[kept]) and clip.fps == fps


def test_a_video_marked_as_rotated_is_turned_upright(tmp_path):
    frames = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    frames[..., :16, :16] = 255  # the stored top left is the top right of the scene
    path = write_video(tmp_path / "phone.mp4", frames)
    rotate_on_display(path)
    clip = read_video(path, size=32)
    assert clip.frames[:, :, 4:12, 20:28].min() > 200
    assert clip.frames[:, :, 4:12, 4:12].max() < 50


def test_a_file_of_noise_is_refused_in_one_sentence(tmp_path):
    path = tmp_path / "noise.mp4"
    path.write_bytes(bytes(range(256)) * 8)
    with pytest.raises(ValueError, match=r"noise\.mp4 cannot be read as a video"):
        VideoFrames(path, 16)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.mp4 is not a file"):
        VideoFrames(tmp_path / "gone.mp4", 16)


def test_sound_alone_is_refused(tmp_path):
    path = write_sound(tmp_path / "sound.mp4")
    with pytest.raises(ValueError, match="holds audio but no video stream"):
        VideoFrames(path, 16)


def test_a_video_without_a_frame_is_refused(tmp_path):
    path = write_video(tmp_path / "empty.mkv", noise_video(1, 16, 16)[:0])
    with pytest.raises(ValueError, match=r"empty\.mkv"):
        read_video(path, 16)


@pytest.mark.parametrize(
    "options", [{"size": 0}, {"size": 8, "fps": 0.0}, {"size": 8, "stride": 0}]
)
def test_impossible_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError, match="got"):
        VideoFrames(tmp_path / "any.mp4", **options)


def test_frames_as_stored_are_neither_resized_nor_cropped(tmp_path):
    frames = noise_video(3, 10, 14)
    video = VideoFrames(write_video(tmp_path / "noise.mkv", frames), None)
    assert torch.equal(torch.stack(list(video)), frames)


def test_kept_frames_come_with_their_time(tmp_path):
    path = write_video(tmp_path / "noise.mkv", noise_video(12, 16, 16))
    times = [time for time, _ in VideoFrames(path, None, fps=10.0).timed()]
    assert times == pytest.approx([0.0, 0.1, 0.2, 0.3], abs=2e-3)


def test_a_written_video_is_read_back_nearly_as_it_was(tmp_path):
    ramp = torch.linspace(0, 255, 48).expand(3, 32, 48)
    frames = torch.stack([ramp, ramp.flip(-1), ramp]).byte()
    write_mp4(tmp_path / "ramp.mp4", iter(frames), 24000 / 1001)
    video = VideoFrames(tmp_path / "ramp.mp4", None)
    again = torch.stack(list(video))
    assert video.fps == pytest.approx(24000 / 1001)
    assert again.shape == frames.shape and (again.int() - frames.int()).abs().float().mean() < 4
    assert [path.name for path in tmp_path.iterdir()] == ["ramp.mp4"]


def test_odd_sides_get_a_copy_of_their_last_line(tmp_path):
    frames = torch.full((2, 3, 33, 47), 40, dtype=torch.uint8)
    frames[:, :, -1] = 200
    write_mp4(tmp_path / "odd.mp4", frames, 30.0)
    (first, *_) = VideoFrames(tmp_path / "odd.mp4", None)
    assert first.shape == (3, 34, 48)
    assert first[:, 33].float().mean() > 150 > 60 > first[:, :30].float().mean()


def test_a_video_that_fails_half_way_leaves_the_old_one_alone(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def broken():
        yield from noise_video(90, 32, 32)  # enough for the encoder to write something
        raise RuntimeError("camera fell")

    with pytest.raises(RuntimeError):
        write_mp4(path, broken(), 30.0)
    with pytest.raises(ValueError, match="no frame"):
        write_mp4(path, iter(()), 30.0)
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def varying(tmp_path, times):
    frames = noise_video(len(times), 16, 16)
    return frames, write_timed_video(tmp_path / "phone.mkv", frames, times)


def test_frames_of_a_varying_rate_are_chosen_by_their_time(tmp_path):
    fast, slow = [t / 60 for t in range(30)], [0.5 + t / 10 for t in range(5)]
    frames, path = varying(tmp_path, fast + slow)
    video = VideoFrames(path, 16, fps=10.0)
    times, kept = zip(*video.timed(), strict=True)
    assert times == pytest.approx([t / 10 for t in range(10)], abs=0.02)
    assert torch.equal(torch.stack(kept), frames[[0, 6, 12, 18, 24, *range(30, 35)]])


def test_a_burst_is_thinned_out_though_the_file_is_slow_on_average(tmp_path):
    burst, after = [t / 60 for t in range(12)], [1.0, 2.0, 3.0, 4.0]
    frames, path = varying(tmp_path, burst + after)
    kept = read_video(path, size=16, fps=30.0).frames
    assert torch.equal(kept, frames[[0, 2, 4, 6, 8, 10, 12, 13, 14, 15]])


def test_stamps_rounded_to_milliseconds_lose_no_frame(tmp_path):
    frames, path = varying(tmp_path, [round(t / 30, 3) for t in range(20)])
    for fps in 30.0, 60.0:
        assert torch.equal(read_video(path, size=16, fps=fps).frames, frames)


@pytest.mark.parametrize("threads", [1, None])
def test_threads_do_not_change_the_frames(tmp_path, threads):
    frames = noise_video(6, 16, 16)
    path = write_video(tmp_path / "noise.mkv", frames)
    kept = torch.stack([*VideoFrames(path, 16, threads=threads)])
    assert torch.equal(kept, frames)


def test_pixels_are_the_frames_with_channels_last(tmp_path):
    frames = noise_video(3, 16, 24)
    video = VideoFrames(write_video(tmp_path / "noise.mkv", frames), 16)
    pixels = torch.stack([torch.from_numpy(each) for _, each in video.timed_pixels()])
    assert torch.equal(pixels, frames[..., 4:20].movedim(1, -1))


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "mov", "avi"])
def test_every_container_is_read(tmp_path, suffix):
    gray = torch.full((4, 3, 32, 32), 90, dtype=torch.uint8)
    clip = read_video(write_video(tmp_path / f"gray.{suffix}", gray), size=16)
    assert len(clip.frames) == 4 and (clip.frames.int() - 90).abs().max() <= 4


def test_a_playlist_opens_no_other_file(tmp_path):
    other = write_video(tmp_path / "other.mp4", noise_video(4, 16, 16))
    for name, text in {
        "list.mp4": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{other}\n#EXT-X-ENDLIST\n",
        "list.mkv": f"ffconcat version 1.0\nfile {other.name}\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a video"):
            VideoFrames(tmp_path / name, 16)


def test_a_strip_is_refused_when_it_is_to_be_squared(tmp_path):
    path = write_video(tmp_path / "strip.mkv", noise_video(2, 8, 400))
    with pytest.raises(ValueError, match=r"strip\.mkv has frames of 400x8 px"):
        VideoFrames(path, 16)
    assert len(list(VideoFrames(path, None))) == 2
