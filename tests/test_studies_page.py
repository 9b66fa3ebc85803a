"""From run folders of a known law to the page: the figures, the links, the same bytes twice."""

import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from studies.collect import collect
from studies.findings import Findings, findings
from studies.isoflop import Optimum
from studies.laws import Law, Refused
from studies.page import write_page
from studies.plots import against
from studies.runs_csv import read_rows
from studies.tables import runs_sheet, sheets_of
from studies.texts import summary_of
from tests.study_cards import FLOOR_PX, SIZES, ZERO_PX, card, curve, write, write_study

DRAWS = 60


def known_law(blocks, tokens, generator):
    """Loss and EPE by laws of parameters and tokens, with noise of 0.3 %."""
    loss = 0.8 + 30 * blocks**-0.3 + 200 * tokens**-0.5
    epe = 0.4 + 1500 * blocks**-0.5
    noise = 1 + 0.003 * generator.standard_normal(2)
    return loss * noise[0], epe * noise[1]


def found_of(root: Path, draws: int = DRAWS) -> Findings:
    return findings(collect(root), "easy", 0.5, seed=0, num_draws=draws)


@pytest.fixture(scope="module")
def study_folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("study")
    write_study(root, known_law, budgets=(1e6, 4e6), seeds=3)
    return root


def test_exponents_of_loss_and_flow_come_back_to_five_percent(study_folder):
    found = found_of(study_folder, draws=300)
    for budget in ("1M tokens", "4M tokens"):
        for measure, truth in (("EPE", 0.5), ("loss", 0.3)):
            (exponent,) = found.fit(measure, "parameters", budget).exponents
            assert exponent.value == pytest.approx(truth, rel=0.05), (measure, budget)
            assert exponent.low < truth < exponent.high, (measure, budget)


def test_what_cannot_be_fitted_is_said_in_the_tables(study_folder):
    study, found = collect(study_folder), found_of(study_folder)
    refused = next(s for s in sheets_of(study, found) if s.title == "Laws that were not fitted")
    told = {line[0]: line[1:] for line in refused.lines}
    why = "2 distinct points for a law of 3 parameters; it takes at least 4"
    assert told["EPE against tokens"] == ("6 of them, each by itself", why)
    assert "2 distinct values on one axis" in told["loss against parameters and tokens"][1]


def test_flow_that_does_not_change_with_size_is_said_to_have_no_trend(tmp_path):
    def flat(blocks, tokens, generator):
        return 2 + 0.1 * generator.standard_normal(), 3 + 0.3 * generator.standard_normal()

    write_study(tmp_path, flat, budgets=(1e6,))
    study, found = collect(tmp_path), found_of(tmp_path, draws=200)
    (exponent,) = found.fit("EPE", "parameters", "1M tokens").exponents
    assert exponent.low <= 0 <= exponent.high
    said = " ".join(summary_of(study, found))
    assert re.search(r"EPE against parameters at 1M tokens: .* cannot be told from none", said)
    assert re.search(r"Rank correlation .* not to be told from none", said)


def test_the_best_size_of_each_flop_budget_comes_back(tmp_path):
    def parabola(blocks, tokens, generator):
        best = 4e5 * (6 * blocks * tokens / 1e13) ** 0.5
        return 2 + 0.2 * math.log10(blocks / best) ** 2 + 0.002 * generator.standard_normal(), 1.0

    write_study(tmp_path, parabola, budgets=(1e13, 3e13, 1e14), unit="flops")
    found = found_of(tmp_path)
    best = {group.name: group.optima["loss"] for group in found.groups}
    assert list(best) == ["1e13 FLOPs", "3e13 FLOPs", "1e14 FLOPs"]
    for (name, each), truth in zip(best.items(), (4e5, 4e5 * 3**0.5, 4e5 * 10**0.5), strict=True):
        assert isinstance(each, Optimum)
        assert each.parameters.value == pytest.approx(truth, rel=0.1), name
        assert each.parameters.low < truth < each.parameters.high, name
    assert found.trends["loss"].exponent.value == pytest.approx(0.5, rel=0.05)
    assert isinstance(found.groups[0].optima["EPE"], Refused)  # flat: nothing is best
    assert found.fit("loss", "parameters", "1e13 FLOPs") is None  # a parabola, not a law


def test_the_page_is_whole_and_leads_to_every_run(study_folder, tmp_path):
    study = collect(study_folder)
    out = tmp_path / "page of it"
    written = write_page(study, found_of(study_folder), out)
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in written)
    text = (out / "report.html").read_text()
    assert not re.search(r'src="|<script|url\((?!#)', text)  # nothing from outside
    pictures = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(pictures) == 6
    run_links = [
        {
            (out / unquote(unescape(href))).resolve()
            for href in re.findall(r'href="([^"#]+/)"', part)
        }
        for part in [*pictures, re.sub(r"<svg.*?</svg>", "", text, flags=re.S)]
    ]
    folders = {(study_folder / run.path).resolve() for run in study.runs}
    assert all(links == folders for links in run_links)  # by each picture and by the table
    for sentence in summary_of(study, found_of(study_folder)):
        assert sentence in unescape(text)
    assert "two cores &amp; a &lt;fan&gt;" in text
    assert f"zero motion {ZERO_PX:.2f} px" in text and f"floor {FLOOR_PX:.2f} px" in text


def test_every_picture_is_there_twice_and_is_one(study_folder, tmp_path):
    names = {
        path.stem for path in write_page(collect(study_folder), found_of(study_folder), tmp_path)
    }
    names -= {"report", "runs"}
    assert names == {"curves", "by_size", "by_tokens", "by_flops", "flow_loss", "emergence"}
    for name in names:
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()
    assert len(read_rows(tmp_path / "runs.csv")) == 36


def test_the_same_runs_give_the_same_bytes(tmp_path):
    write_study(tmp_path / "runs", known_law, budgets=(1e6,), seeds=1)
    for name in ("a", "b"):
        write_page(collect(tmp_path / "runs"), found_of(tmp_path / "runs"), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_one_run_alone_has_a_page_without_a_fit(tmp_path):
    write(tmp_path, card(curve=()), "only")
    study, found = collect(tmp_path), found_of(tmp_path)
    assert not [fit for fit in found.fits if isinstance(fit.law, Law)]
    write_page(study, found, tmp_path / "report")
    assert "1 run of 1 size (60k to 60k" in (tmp_path / "report" / "report.html").read_text()


def test_runs_that_diverged_are_counted_and_do_not_spoil_the_rest(tmp_path):
    write_study(tmp_path, known_law, budgets=(1e6,), seeds=1)
    write(tmp_path, card(seed=7, loss_nats=float("nan"), sets={}), "diverged")
    study, found = collect(tmp_path), found_of(tmp_path)
    assert found.fit("loss", "parameters", "1M tokens").runs == 6
    assert "1 without a finite EPE on easy" in summary_of(study, found)[0]
    write_page(study, found, tmp_path / "report")
    row = next(line for line in runs_sheet(study, found).lines if line[0] == "diverged")
    assert "–" in row


@pytest.mark.parametrize("what, left", [("EPE", "by_size"), ("EPE and loss", "emergence")])
def test_a_study_whose_runs_all_diverged_has_a_page_without_those_pictures(what, left, tmp_path):
    none = replace(card().sets["easy"], epe_px=math.nan, floor_px=0.0)
    for size, blocks in list(SIZES.items())[:3]:
        made = card(size=size, blocks=blocks, sets={"easy": none}, curve=curve([math.nan] * 3))
        made = replace(made, budget={"flops": 1e12})
        lost = replace(made, loss_nats=math.nan)
        write(tmp_path, made if what == "EPE" else lost)
    study, found = collect(tmp_path), found_of(tmp_path)
    assert "3 without a finite EPE on easy" in summary_of(study, found)[0]
    names = {path.stem for path in write_page(study, found, tmp_path / "report")}
    assert left in names and not {"curves", "flow_loss"} & names
    assert ("by_size" in names) == (what == "EPE")


def test_a_run_without_error_and_a_floor_of_zero_are_drawn_and_said(tmp_path):
    """On scenes that move by whole patches the floor is 0, and a good model reaches it."""
    figures = replace(card().sets["easy"], floor_px=0.0)
    for place, (size, blocks) in enumerate(SIZES.items()):
        own = replace(figures, epe_px=[4.0, 2.0, 1.0, 0.5, 0.25, 0.0][place])
        write(tmp_path, card(size=size, blocks=blocks, sets={"easy": own}))
    study, found = collect(tmp_path), found_of(tmp_path)
    assert found.fit("EPE", "parameters", "1M tokens").runs == 5
    assert "1 with an EPE of exactly 0" in summary_of(study, found)[0]
    axes = against(study, found, "parameters", lambda run: run.path).axes[0]
    assert axes.get_yscale() == "linear" and axes.get_ylim()[0] < 0
    assert sum(len(drawn.get_offsets()) for drawn in axes.collections if drawn.get_urls()[0]) == 6


def test_emergence_is_told_by_size_and_budget(tmp_path):
    write(tmp_path, card(seed=0))
    write(tmp_path, card(seed=1, curve=curve([9, 9, 9, 9])))
    write(tmp_path, card(size="d64", blocks=240_000, curve=curve([9, 9, 9, 9])))
    study, found = collect(tmp_path), found_of(tmp_path)
    sheet = next(s for s in sheets_of(study, found) if s.title == "Emergence of flow")
    assert sheet.lines[0][:4] == ("d32", "1M tokens", "1 of 2", "666")
    assert sheet.lines[1][:4] == ("d64", "1M tokens", "0 of 1", "not within 1,000")
    assert "in 1 of 3 runs, after 667k to 667k tokens" in " ".join(summary_of(study, found))
