"""Frozen Kubric tracks: written and read back exactly, hashed, made by the command, refused."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_tracks import kubric_arrays, write_kubric

from data import kubric
from data.readers.kubric import KubricTracks, arrays_sha256, write_kubric_tracks

ROOT = Path(__file__).resolve().parents[1]


def test_what_is_written_is_read_back_exactly(tmp_path):
    tracks = KubricTracks(write_kubric(tmp_path / "k"))
    assert tracks.names == ("movi_e_0000", "movi_e_0001")
    arrays = kubric_arrays(seed=1)
    read = tracks[1]
    assert torch.equal(read.frames, torch.from_numpy(arrays["frames"]).movedim(-1, 1))
    assert torch.equal(read.visible, torch.from_numpy(~arrays["occluded"]))
    shown = read.visible.numpy()
    assert np.array_equal(read.points.numpy()[shown], arrays["target_xy"][shown])
    points, visible = tracks.tracks(1, (48, 64))
    assert torch.equal(points, 2 * read.points) and torch.equal(visible, read.visible)


def test_queries_are_frame_then_y_then_x_in_the_file_and_x_y_when_read(tmp_path):
    arrays = kubric_arrays()
    arrays["query_tyx"][0] = [3, 5.5, 9.25]
    write_kubric_tracks(tmp_path / "k", [("a", arrays)], "fake", 0)
    given = KubricTracks(tmp_path / "k").queries(0, (48, 64))
    assert given.frame.tolist() == [3, 5, 2]
    assert given.xy[0].tolist() == [18.5, 11.0]


def test_the_hash_is_of_the_arrays_and_not_of_their_compression(tmp_path):
    arrays = kubric_arrays()
    whole = arrays_sha256(arrays)
    assert whole == arrays_sha256({k: np.asfortranarray(v) for k, v in arrays.items()})
    for name in arrays:
        changed = {key: value.copy() for key, value in arrays.items()}
        changed[name].flat[0] = not changed[name].flat[0]
        assert arrays_sha256(changed) != whole
    one = write_kubric_tracks(tmp_path / "a", [("x", arrays)], "fake", 0)
    assert one == write_kubric_tracks(tmp_path / "b", [("x", arrays)], "elsewhere", 0)
    assert one != write_kubric_tracks(tmp_path / "c", [("y", arrays)], "fake", 0)


def test_the_hash_must_not_change_under_the_name_of_the_format():
    arrays = {
        "frames": np.arange(2 * 2 * 2 * 3, dtype=np.uint8).reshape(2, 2, 2, 3),
        "query_tyx": np.array([[1, 0.5, 1.5]], np.float32),
        "target_xy": np.array([[[0.5, 0.25], [1.5, 0.5]]], np.float32),
        "occluded": np.array([[True, False]]),
    }
    assert arrays_sha256(arrays)[:16] == "cb448c740b55fecb"


def test_verify_finds_a_changed_video(tmp_path):
    folder = write_kubric(tmp_path / "k")
    assert kubric.verify(folder) == json.loads((folder / "index.json").read_text())["sha256"]
    arrays = kubric_arrays(seed=1)
    arrays["target_xy"][0, 0, 0] += 0.5
    np.savez_compressed(folder / "movi_e_0001.npz", **arrays)
    with pytest.raises(ValueError, match="differs from its index in movi_e_0001; copy it again"):
        kubric.verify(folder)


def test_each_scene_is_drawn_from_a_seed_of_its_own():
    scenes = [{"video": kubric_arrays(seed)["frames"]} for seed in range(3)]
    asked = []

    def sample(scene, seed):
        asked.append(seed)
        arrays = kubric_arrays(seed)
        return arrays["query_tyx"], arrays["target_xy"], arrays["occluded"]

    made = list(kubric.frozen_videos(iter(scenes), sample, seed=7, videos=2))
    assert asked == [7, 8] and [name for name, _ in made] == ["movi_e_0000", "movi_e_0001"]
    assert np.array_equal(made[1][1]["frames"], scenes[1]["video"])
    assert arrays_sha256(made[1][1]) == arrays_sha256(
        kubric_arrays(8) | {"frames": scenes[1]["video"]}
    )


def test_the_index_comes_last_so_that_half_a_set_is_none(tmp_path):
    def breaks():
        yield "a", kubric_arrays()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_kubric_tracks(tmp_path / "k", breaks(), "fake", 0)
    with pytest.raises(ValueError, match=r"no index\.json"):
        KubricTracks(tmp_path / "k")


def test_nothing_to_freeze_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="gave no video"):
        write_kubric_tracks(tmp_path / "k", [], "fake", 0)


def cut_off(folder):
    file = folder / "movi_e_0000.npz"
    file.write_bytes(file.read_bytes()[:100])


def gone(folder):
    (folder / "movi_e_0001.npz").unlink()


def other_format(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"format": "lras-kubric-tracks-9"}))


def outside(folder):
    text = (folder / "index.json").read_text()
    (folder / "index.json").write_text(text.replace('"movi_e_0000.npz"', '"../movi_e_0000.npz"'))


def fewer(folder):
    index = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps(index | {"videos": index["videos"][:1]}))


def half_a_frame(folder):
    arrays = kubric_arrays()
    arrays["query_tyx"][0, 0] = 2.5
    np.savez_compressed(folder / "movi_e_0000.npz", **arrays)


def other_length(folder):
    arrays = kubric_arrays()
    arrays["occluded"] = arrays["occluded"][:, :-1]
    np.savez_compressed(folder / "movi_e_0000.npz", **arrays)


def with_objects(folder):
    arrays = kubric_arrays() | {"target_xy": np.array([{}], object)}
    np.savez_compressed(folder / "movi_e_0000.npz", **arrays)


BAD = {
    "cut off": (cut_off, "is no readable .npz"),
    "gone": (gone, "lists movi_e_0001.npz and 0 other files"),
    "another format": (other_format, "lras-kubric-tracks-9"),
    "a name outside": (outside, "outside its folder"),
    "fewer videos": (fewer, "not those it was written for"),
    "half a frame": (half_a_frame, "expected whole numbers from 0 to 11"),
    "other lengths": (other_length, "do not go together"),
    "pickled objects": (with_objects, "is no readable .npz"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_set_is_refused_in_one_sentence(case, tmp_path):
    spoil, sentence = BAD[case]
    folder = write_kubric(tmp_path / "k")
    spoil(folder)
    with pytest.raises(ValueError, match=sentence) as error:
        list(KubricTracks(folder))
    assert len(str(error.value).splitlines()) == 1


def test_without_tensorflow_the_command_says_what_to_install(tmp_path):
    command = [sys.executable, "-m", "data.kubric", "make", "gs://nowhere", str(tmp_path / "k")]
    blocked = "import sys; sys.modules['tensorflow'] = None; import runpy; "
    blocked += f"sys.argv = {command[2:]!r}; runpy.run_module('data.kubric', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: Kubric's tracks need tensorflow")
    assert "pip install tensorflow" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "k").exists()


def test_the_command_prints_the_hash(tmp_path, capsys):
    folder = write_kubric(tmp_path / "k")
    kubric.main(["verify", str(folder)])
    assert f"2 videos, sha256 {kubric.verify(folder)}" in capsys.readouterr().out
