"""What ``videos=`` can be: a folder, a list, a glob, a file."""

import os

import pytest

from data.inputs import find_inputs

NAMES = ["a.mp4", "b.WEBM", "deep/c.mov", "deep/d.avi", "deep/er/e.mkv"]


@pytest.fixture
def folder(tmp_path):
    for name in (*NAMES, "notes.txt", ".hidden.mp4", ".git/f.mp4", "deep/picture.jpg"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "videos"


def test_a_folder_is_searched_with_its_subfolders(folder):
    found = find_inputs(str(folder))
    assert found.names == tuple(NAMES) and found.path(2) == folder / "deep/c.mov"


def test_links_to_folders_do_not_run_in_circles(folder):
    (folder / "deep" / "circle").symlink_to(folder)
    assert find_inputs(str(folder)).names == tuple(NAMES)


def test_a_list_names_videos_from_its_own_folder(folder, tmp_path):
    lines = ["# two of them", "", "videos/a.mp4", "  videos/deep/c.mov  ", "videos/a.mp4"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    found = find_inputs(str(tmp_path / "list.txt"))
    assert found.names == ("a.mp4", "deep/c.mov") and found.root == folder


def test_a_list_may_name_folders_absolute_paths_and_what_is_not_there(folder, tmp_path):
    (tmp_path / "list.txt").write_text(f"{folder / 'deep'}\nvideos/gone.mp4\n")
    names = find_inputs(str(tmp_path / "list.txt")).names
    assert names == ("deep/c.mov", "deep/d.avi", "deep/er/e.mkv", "gone.mp4")


def test_a_list_in_no_encoding_is_read(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"caf\xe9.mp4\nb.mp4\n")
    assert find_inputs(str(tmp_path / "list.txt")).names == ("b.mp4", os.fsdecode(b"caf\xe9.mp4"))


def test_a_glob_takes_what_it_matches_and_searches_folders(folder):
    assert find_inputs(f"{folder}/*.mp4").names == ("a.mp4",)
    assert find_inputs(f"{folder}/**/*.m*").names == ("a.mp4", "deep/c.mov", "deep/er/e.mkv")
    assert find_inputs(f"{folder}/d*").names == ("c.mov", "d.avi", "er/e.mkv")


def test_one_file_is_one_video_whatever_its_suffix(folder):
    (folder / "f.dat").touch()
    assert find_inputs(str(folder / "f.dat")).names == ("f.dat",)


def test_names_do_not_depend_on_where_the_command_is_typed(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_inputs("videos").names == find_inputs(str(folder)).names
    assert find_inputs("videos/*.mp4").names == find_inputs(f"{folder}/*.mp4").names


@pytest.mark.parametrize("given", ["gone", "empty", "none.txt", "videos/*.mpg"])
def test_nothing_there_costs_one_sentence(folder, tmp_path, given, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").write_text("# nothing\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"videos=\S+ (is not|holds no|lists no|matches no)"):
        find_inputs(given)
