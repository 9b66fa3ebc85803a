import base64
import re

import cv2
import numpy as np
import pytest
import torch

from tracing.report_markdown import write_markdown
from tracing.report_page import write_report
from tracing.results_schema import SCHEMA
from tracing.visualize import (
    arrows_figure,
    epe_curve_figure,
    flow_colors,
    flow_figure,
    full_color_px,
    kl_map_figure,
    png_bytes,
    save_png,
)


def row(name, epe, **extra):
    return {
        "name": name,
        "epe": epe,
        "epe_interval": [epe - 0.5, epe + 0.5],
        "median": epe,
        "delta_avg": 0.5,
        "hit": 0.25,
        "ratio_to_zero": epe / 4,
        "target_revealed_share": None,
        "seconds": 1.0,
        "paired_vs": None,
    } | extra


def results(**extra):
    versus = {"name": "rgb", "difference": -1.0, "interval": [-1.5, -0.5], "excludes_zero": True}
    return {
        "schema": SCHEMA,
        "task": "synthetic",
        "stamp": {"protocol_id": "synthetic/64x48", "data": [], "seed": 0},
        "coverage": {"units": 4, "of_units": 4, "share": 1.0},
        "protocol": {"placement": "patch", "masks": 8},
        "dataset": {"name": "easy", "num_pairs": 4, "num_points": 1234, "resolution_hw": [64, 48]},
        "tracers": [row("kl", 1.0, paired_vs=versus), row("zero_motion", 4.0), row("dis", 2.125)],
        "controls": [row("untrained <model>", 4.25, target_revealed_share=0.125)],
        "floor": 0.625,
        "provenance": {"command": "python eval.py", "machine": {"cpu": "a & b"}},
    } | extra


def decode(png):
    return cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)


def test_the_page_holds_every_number_and_nothing_from_outside(tmp_path):
    page = tmp_path / "report.html"
    write_report(results(), page)
    text = page.read_text()
    for said in ("1.000", "4.000", "2.125", "0.625", "4.250", "12.5%", "1,234", "64x48"):
        assert said in text
    assert "-1.000 [-1.500, -0.500] vs rgb" in text
    assert "untrained &lt;model&gt;" in text
    assert "a &amp; b" in text
    assert 'name="viewport"' in text
    assert not re.search(r'(src|href)="(?!data:)|url\(|<script', text)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def tracks(**extra):
    def one(name, epe):
        occlusion = {"rule": "everything is called visible"}
        own = {"ad": epe / 2, "oa": 0.875, "aj": 0.4375, "occlusion": occlusion}
        return row(name, epe, **own) | {"epe_interval": None}

    lost = dict.fromkeys(("epe", "ad", "delta_avg", "oa", "aj"))
    seen = {"epe": 7.25, "ad": 3.5, "delta_avg": 0.25, "oa": 1.0, "aj": 0.1875}
    scores = {"kl": seen, "dis": lost}
    versus = {"name": "kl", "difference": 1.5, "interval": None, "excludes_zero": None}
    dataset = {"name": "davis", "num_pairs": 4, "num_points": 77, "resolution_hw": [256, 256]}
    dataset |= {"num_videos": 3, "num_unscorable": 1, "part": "3 of 30 videos"}
    return results(
        dataset=dataset,
        tracers=[one("kl", 2.5), one("dis", 4.0) | {"paired_vs": versus, "ratio_to_zero": None}],
        controls=[one("untrained", 9.0)],
        videos=[{"name": "goat & co", "num_points": 5, "scores": scores}],
        **extra,
    )


def test_the_page_of_point_tracks_has_their_columns_and_a_row_a_video(tmp_path):
    write_report(tracks(), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    for said in ("<th>AD (px)</th>", "<th>OA</th>", "<th>AJ</th>", "0.875", "0.438", "1.250"):
        assert said in text
    assert "+1.500 vs kl" in text
    assert "goat &amp; co</td><td>5</td><td>7.25</td><td>0.188</td><td>–</td><td>–</td>" in text
    assert "of 3 videos (1 without a point to score), not the whole file but 3 of 30" in text
    assert "None" not in text and "null" not in text
    write_report(results(), tmp_path / "report.html")
    assert "<th>AJ</th>" not in (tmp_path / "report.html").read_text()


def test_curve_and_pictures_are_embedded_as_they_are(tmp_path):
    save_png(epe_curve_figure([{"step": 0, "epe": 1.0}], {}), tmp_path / "one.png")
    curve = [{"step": 0, "epe": 4.0}, {"step": 100, "epe": 1.5, "stage": 1}]
    pictures = [{"file": "one.png", "caption": "a & b"}]
    write_report(results(curve=curve, pictures=pictures), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    images = [base64.b64decode(m) for m in re.findall(r"base64,([^\"]+)", text)]
    assert len(images) == 2
    assert images[1] == (tmp_path / "one.png").read_bytes()
    assert decode(images[0]) is not None
    assert "a &amp; b" in text


def test_a_missing_key_or_picture_is_named_and_nothing_is_left(tmp_path):
    lacking = results()
    del lacking["floor"]
    with pytest.raises(ValueError, match="lack floor"):
        write_report(lacking, tmp_path / "report.html")
    with pytest.raises(ValueError, match=r"gone\.png is not there"):
        pictures = [{"file": "gone.png", "caption": ""}]
        write_report(results(pictures=pictures), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


# --- incomplete, published and as Markdown -----------------------------------------------------


def davis(**dataset):
    said = tracks()
    about = said["dataset"] | {"name": "davis", "query_mode": "first"} | dataset
    return said | {"dataset": {key: value for key, value in about.items() if value is not None}}


@pytest.mark.parametrize("write", [write_report, write_markdown])
def test_an_incomplete_evaluation_is_marked(write, tmp_path):
    write(results(), tmp_path / "page")
    assert "NOT COMPLETE" not in (tmp_path / "page").read_text()
    part = {"units": 3, "of_units": 4, "share": 0.75}
    write(results(coverage=part), tmp_path / "page")
    assert "NOT COMPLETE: graded on 3 of 4 units (75.0%)" in (tmp_path / "page").read_text()


def test_published_figures_of_the_same_data_set_stand_beside_ours(tmp_path):
    write_report(davis(part=None, num_videos=30), tmp_path / "page")
    text = (tmp_path / "page").read_text()
    ours = "<td>kl</td><td>43.75</td><td>1.25</td><td>50.00</td><td>87.50</td><td>–</td><td>two"
    assert ours in text
    theirs = "<td>Opt-CWM</td><td>47.53</td><td>8.73</td><td>64.83</td><td>80.87</td><td>60.74</td>"
    assert theirs + "<td>two</td><td>not stated</td><td>Opt-CWM paper, Table 1</td><td>yes" in text
    assert "<td>no: sees the whole video, not two frames</td>" in text
    assert "44.85" not in text and "69.53" not in text  # of other data sets and query modes


def test_what_keeps_published_figures_from_being_compared_is_said(tmp_path):
    write_report(davis(), tmp_path / "page")  # a part of the file
    text = (tmp_path / "page").read_text()
    assert "no: here only 3 of 30 videos" in text and "<td>yes</td>" not in text
    write_report(davis(part=None), tmp_path / "page")  # a file that holds too few
    text = (tmp_path / "page").read_text()
    assert "<td>no: here 3 of 30</td>" in text and "<td>yes</td>" not in text
    write_report(
        davis(part=None, num_videos=30) | {"coverage": {"units": 1, "of_units": 2, "share": 0.5}},
        tmp_path / "page",
    )
    assert "no: here only 50.0% are answered" in (tmp_path / "page").read_text()
    write_report(davis(name="kubric", part=None), tmp_path / "page")
    text = (tmp_path / "page").read_text()
    assert "70.70" not in text and "67.61" in text and "<td>yes</td>" not in text


@pytest.mark.parametrize("name", ["my_davis", "rgb", "goats.pkl"])
def test_other_data_sets_have_no_published_figures(name, tmp_path):
    write_report(davis(name=name), tmp_path / "page")
    assert "Beside published" not in (tmp_path / "page").read_text()


DENSE = {"pairs": 2, "pixels": 1000, "epe": 1.5, "px1": 0.5, "px3": 0.75, "px5": 0.875}
DENSE |= {"fl_all": 12.5, "wauc": 66.5, "s0_10": 0.5, "s10_40": None, "s40": 9.25}
DENSE |= {"epe_visible": 1.25, "epe_occluded": None}
DENSE |= {f"{key}_pooled": value for key, value in DENSE.items() if key[0] in "epfs"}
DENSE = {k: v for k, v in DENSE.items() if not k.startswith(("pairs_p", "pixels_p"))}


def test_dense_flow_has_a_table_and_its_published_figures(tmp_path):
    rows = [row("dis@native", 1.0, dense=DENSE), row("kl@16x16", 2.0, dense=None)]
    pairs = [{"name": "alley", "resolution_hw": [4, 5], "scores": {"dis@native": {"epe": 1.75}}}]
    about = {"name": "sintel_clean", "num_pairs": 2, "num_points": 9, "resolution_hw": None}
    given = results(tracers=rows, dataset=about, dense_pairs=pairs)
    write_report(given, tmp_path / "page")
    text = (tmp_path / "page").read_text()
    for said in ("<td>66.500</td>", "1,000 in 2 pairs", "<td>alley</td><td>4x5</td><td>1.75</td>"):
        assert said in text
    assert "s10-40" not in text.split("Beside published")[0].split("Dense flow")[1]  # nobody has it
    assert "<td>RAFT (supervised, C+T)</td><td>1.49</td>" in text
    assert "<td>kl@16x16</td><td>–</td><td>–</td>" in text


def test_markdown_holds_the_same_tables_and_no_loose_markup(tmp_path):
    write_markdown(davis(), tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| kl | 2.500 |" in text and "## Beside published figures" in text
    assert "| goat & co | 5 | 7.25 | 0.188 | – | – |" in text
    assert "untrained \\<model\\>" not in text and "<b>" not in text
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table.splitlines()}) == 1
    named = results(tracers=[row("a|b_c", 1.0)])
    write_markdown(named, tmp_path / "page.md")
    assert "| a\\|b\\_c | 1.000 |" in (tmp_path / "page.md").read_text()


def test_no_motion_is_white_and_opposite_motions_differ():
    assert (flow_colors(torch.zeros(2, 3, 5)) == 255).all()
    flow = torch.zeros(2, 1, 3)
    flow[0, 0] = torch.tensor([-4.0, 0.0, 4.0])
    left, still, right = flow_colors(flow).squeeze(1).T.tolist()
    assert still == [255, 255, 255]
    assert left != right


def test_one_scale_gives_one_motion_one_color_in_every_picture():
    small, large = torch.full((2, 1, 2), 1.0), torch.full((2, 1, 2), 1.0)
    large[:, 0, 1] = 9.0
    assert not torch.equal(flow_colors(small)[..., 0], flow_colors(large)[..., 0])
    one, two = flow_colors(small, max_px=10.0), flow_colors(large, max_px=10.0)
    assert torch.equal(one[..., 0], two[..., 0])
    # beyond the scale: shown at its end
    assert torch.equal(flow_colors(large, 2.0)[..., 1], flow_colors(2 * large, 2.0)[..., 1])


def test_full_color_is_what_nearly_all_visible_displacements_reach():
    flow, visible = torch.zeros(2, 10, 20), torch.ones(10, 20, dtype=torch.bool)
    flow[0], flow[:, 0, 0] = 3.0, 500.0  # one lost point
    assert full_color_px(flow, visible) == 3.0
    flow[0, 5:], visible[5:] = 40.0, False  # hidden points have no say
    assert full_color_px(flow, visible) == 3.0
    assert full_color_px(flow, torch.zeros_like(visible)) == 40.0  # unless all are hidden
    assert full_color_px(torch.zeros_like(flow), visible) == 0.0
    still = torch.zeros_like(flow)
    still[0, 0, 0] = 7.0
    assert full_color_px(still, visible) == 7.0  # nothing else moves


@pytest.mark.parametrize("has_target", [True, False])
def test_every_picture_is_drawn_without_a_display(monkeypatch, tmp_path, has_target):
    monkeypatch.delenv("DISPLAY", raising=False)
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 3, 24, 32, generator=generator)
    points = torch.tensor([[8.0, 8.0], [20.0, 10.0]])
    target = points + 4 if has_target else None
    flow = torch.rand(2, 24, 32, generator=generator)
    kl = torch.rand(6, 8, generator=generator)
    figures = [
        kl_map_figure(*frames, points[0], points[1], kl, None if target is None else target[0]),
        arrows_figure(frames[0], points, points + 3, target),
        flow_figure(frames[0], flow, flow if has_target else None),
    ]
    for figure in figures:
        picture = decode(png_bytes(figure))
        assert picture.std() > 10


def test_marks_stand_at_raster_coordinates():
    frames = torch.zeros(2, 3, 24, 32)
    query = torch.tensor([8.0, 6.0])
    figure = kl_map_figure(*frames, query, query, torch.zeros(6, 8))
    axes = figure.axes[0]
    assert [list(line.get_xydata()[0]) for line in axes.lines] == [[8.0, 6.0]]
    assert axes.images[0].get_extent() == [0, 32, 24, 0]
