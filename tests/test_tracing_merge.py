"""``python -m tracing.report``: several runs in one table, if they asked the same."""

import json

import numpy as np
import pytest

from tests.test_tracing_report import results, row, tracks
from tracing import report

POINTS = np.arange(80, dtype=np.float32).reshape(40, 2)


def run(folder, given, points=POINTS, **errors):
    """A run folder; ``errors``: how far each tracer is off, px along x."""
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(given))
    if errors:
        xy = {f"xy/{n}": points + np.stack([e, 0 * e], 1) for n, e in errors.items()}
        pair = np.repeat(np.arange(10), 4)
        np.savez(folder / "points.npz", points=points, target=points, frame_pair=pair, **xy)
    return folder


def two(tmp_path, **changes):
    near, far = np.linspace(0, 2, 40), np.linspace(1, 4, 40)
    rows = [row("dis", 1.0), row("still", 3.0)]
    one = run(tmp_path / "one", results(tracers=rows), dis=near, still=far)
    other = results(tracers=[row("farneback", 2.5), row("still", 3.0)], **changes)
    return one, run(tmp_path / "other", other, farneback=far, dis=near)


def lines_of(text, title):
    """Cells of a table of the merged Markdown page, line by line."""
    block = text.split(f"## {title}\n\n")[1].split("\n\n")
    table = next(part for part in block if part.startswith("|"))
    lines = table.replace("\\", "").splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def numbers(interval):
    return [float(end) for end in interval.strip("[]").split(",")]


def merge(tmp_path, *words):
    report.main([*map(str, words), "--out", str(tmp_path / "out")])
    assert (tmp_path / "out" / "merged.html").is_file()
    return (tmp_path / "out" / "merged.md").read_text()


def test_rows_of_all_runs_stand_in_one_table_and_once(tmp_path, capsys):
    text = merge(tmp_path, *two(tmp_path))
    rows = lines_of(text, "Tracers")
    assert [line[:2] for line in rows] == [
        ["dis", "1.000"], ["still", "3.000"], ["farneback", "2.500"], ["read-out floor", "0.625"],
    ]  # fmt: skip
    page = (tmp_path / "out" / "merged.html").read_text()
    assert "<td>farneback</td><td>2.500</td>" in page
    said = capsys.readouterr().out
    assert "farneback" in said and "merged.html" in said


def test_the_same_tracer_with_other_figures_is_told_by_its_run(tmp_path):
    one = run(tmp_path / "one", results(tracers=[row("kl", 1.0, seconds=1.0)]))
    same = run(tmp_path / "same", results(tracers=[row("kl", 1.0, seconds=9.0)]))
    other = run(tmp_path / "other", results(tracers=[row("kl", 2.0)]))
    rows = lines_of(merge(tmp_path, one, same, other), "Tracers")
    assert [line[0] for line in rows][:1] == ["kl"] and len(rows) == 3
    assert rows[1][0] == f"kl ({other})" and rows[1][1] == "2.000"


def test_rows_are_compared_on_the_same_points(tmp_path):
    one, other = two(tmp_path)
    near, far = np.linspace(0, 2, 40), np.linspace(1, 4, 40)
    ((_, difference, interval),) = [
        line for line in lines_of(merge(tmp_path, one, other), "Paired differences")
        if line[0] == "farneback"
    ]  # fmt: skip
    gap = (far - near).mean()
    assert float(difference) == pytest.approx(gap, abs=1e-3)
    low, high = numbers(interval)
    assert low < gap < high


def test_other_points_are_not_compared(tmp_path):
    one, other = two(tmp_path)
    with np.load(other / "points.npz") as stored:
        arrays = dict(stored) | {"target": POINTS + 1}
    np.savez(other / "points.npz", **arrays)
    assert "Paired differences" not in merge(tmp_path, one, other)
    (other / "points.npz").unlink()
    assert "Paired differences" not in merge(tmp_path, one, other)


def test_videos_are_compared_one_by_one(tmp_path):
    def seen(name, epe):
        scores = dict.fromkeys(("ad", "delta_avg", "oa", "aj"), 0.5)
        found = tracks() | {"tracers": [row(name, float(np.mean(epe)))]}
        found["videos"] = [
            {"name": f"v{i}", "num_points": 1, "scores": {name: scores | {"epe": e}}}
            for i, e in enumerate(epe)
        ]
        return found

    one = run(tmp_path / "one", seen("kl", [1.0 + 0.1 * i for i in range(10)]))
    other = run(tmp_path / "other", seen("dis", [2.0 + 0.2 * i for i in range(10)]))
    (line,) = lines_of(merge(tmp_path, one, other), "Paired differences")
    assert line[:2] == ["dis", "+1.450"] and numbers(line[2])[0] > 1
    few = run(tmp_path / "few", seen("rgb", [2.0]))
    (line,) = lines_of(merge(tmp_path, one, few), "Paired differences")
    assert line == ["rgb", "+1.000", "–"]  # no interval over one video


CHANGES = {
    "task": "flow_pairs",
    "stamp.seed": 7,
    "stamp.data": [{"file": "a", "sha256": "b", "of": "content"}],
    "stamp.protocol_id": "synthetic/8x8",
    "dataset.num_points": 5,
    "coverage.share": 0.5,
    "protocol.query_mode": "strided",
    "protocol.settings": {"pass": "final"},
    "dataset.name": "another",
}


@pytest.mark.parametrize("key", CHANGES)
def test_runs_that_asked_something_else_are_refused_by_name(key, tmp_path):
    one = run(tmp_path / "one", results())
    changed = results()
    first, _, rest = key.partition(".")
    if rest:
        changed[first] = changed[first] | {rest: CHANGES[key]}
    else:
        changed[first] = CHANGES[key]
    other = run(tmp_path / "other", changed)
    with pytest.raises(SystemExit) as stop:
        merge(tmp_path, one, other)
    said = str(stop.value)
    assert (
        said.startswith("error: these runs cannot stand in one table: ") and f": {key} is" in said
    )
    assert "--force" in said and not (tmp_path / "out").exists()
    text = merge(tmp_path, one, other, "--force")
    assert f"NOT COMPARABLE: {key} is".replace("_", "\\_") in text


def test_one_run_gets_its_own_pages_anew(tmp_path):
    one = run(tmp_path / "one", results())
    report.main([str(one)])
    assert (one / "report.html").is_file() and (one / "report.md").is_file()


def test_a_folder_without_results_ends_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit, match=r"^error: no results\.json in .*; pass a folder"):
        report.main([str(tmp_path)])
