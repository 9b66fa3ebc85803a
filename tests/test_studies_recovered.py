"""Run folders whose law is known, through scaling.py: the page tells the exponents of the law."""

import re
from html import unescape
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

import scaling
from tests.study_cards import SIZES, write_study

pytestmark = pytest.mark.slow  # forty laws with their intervals

BUDGETS = (1e6, 4e6, 16e6, 64e6)
OF_LOSS, OF_EPE = (0.35, 0.45), (0.5, 0.6)  # exponents of parameters and of tokens


def both_axes(blocks, tokens, generator):
    """Loss and EPE fall with parameters and with tokens, towards a floor; noise of 0.05 %."""
    loss = 0.8 + 60 * blocks ** -OF_LOSS[0] + 900 * tokens ** -OF_LOSS[1]
    epe = 0.3 + 1500 * blocks ** -OF_EPE[0] + 9000 * tokens ** -OF_EPE[1]
    noise = 1 + 0.0005 * generator.standard_normal(2)
    return loss * noise[0], epe * noise[1]


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> dict[tuple[str, str], list[float]]:
    """Exponents in the page's table of laws, by law and by the runs it is of."""
    root: Path = tmp_path_factory.mktemp("study")
    write_study(root, both_axes, BUDGETS, seeds=1, sizes=dict(list(SIZES.items())[:5]))
    words = {"runs": str(root), "out": None, "set": None}
    words |= {"emergence_share": 0.5, "seed": 0, "num_draws": 20}
    scaling.run(OmegaConf.create(words), Console(quiet=True))
    page = (root / "report" / "report.html").read_text()
    table = re.search(r"<h2>Power laws with a floor</h2>.*?</table>", page, re.S).group()
    lines = [re.findall(r"<td.*?>(.*?)</td>", line) for line in table.split("<tr>")[2:]]
    return {
        (unescape(law), among): [float(each) for each in re.findall(r"(\S+) \[", exponents)]
        for law, among, _, exponents, *_ in lines
    }


def of(told: dict, law: str) -> list[list[float]]:
    return [exponents for (name, _), exponents in told.items() if name == law]


@pytest.mark.parametrize(
    "measure, truth", [("loss (nats per code)", OF_LOSS), ("EPE (px)", OF_EPE)]
)
def test_exponents_of_every_axis_and_of_the_joint_law_come_back_to_five_percent(
    measure, truth, told
):
    by_parameters = of(told, f"{measure} against parameters")
    by_tokens = of(told, f"{measure} against tokens")
    assert (len(by_parameters), len(by_tokens)) == (4, 5)  # a law at each budget, of each size
    assert all(each == pytest.approx(truth[:1], rel=0.05) for each in by_parameters)
    assert all(each == pytest.approx(truth[1:], rel=0.05) for each in by_tokens)
    (joint,) = of(told, f"{measure} against parameters and tokens")
    assert joint == pytest.approx(truth, rel=0.05)
