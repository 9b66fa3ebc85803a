"""save_pretrained, from_pretrained and push_to_hub by Hugging Face's mixin, without a network."""

from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, ModelCard

import lras.hub
from lras.checkpoint import load, load_quantizer, save
from lras.hub import NOT_STATED, card_figures
from lras.lpq import LPQ
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from tests.official_files import QUANTIZER, write_file
from tests.tiny_model import states_equal, tiny_model

NOTE = {
    "data": "two scenes of moving squares",
    "tokens": "3.1 M",
    "step": 1200,
    "flow_epe_px": "0.42 (kl)",
    "protocol": "synthetic, 128 pairs",
}


@pytest.mark.parametrize("part", ["next_frame", "predictor", "quantizer"])
def test_what_is_saved_comes_back_the_same(tmp_path, part):
    whole = tiny_model().eval()
    model = whole if part == "next_frame" else getattr(whole, part)
    model.note = NOTE
    model.save_pretrained(tmp_path / "hub")
    back = type(model).from_pretrained(tmp_path / "hub")
    assert type(back) is type(model) and states_equal(back, model)
    assert back.note == NOTE
    assert not back.training and not any(p.requires_grad for p in back.parameters())
    names = {path.name for path in (tmp_path / "hub").iterdir()}
    assert names == {"README.md", "config.json", "model.safetensors"}


def test_both_networks_come_out_of_a_whole_model_and_eval_takes_its_folder(tmp_path):
    whole = tiny_model()
    whole.save_pretrained(tmp_path / "hub")
    assert states_equal(FramePredictor.from_pretrained(tmp_path / "hub"), whole.predictor)
    assert states_equal(Quantizer.from_pretrained(tmp_path / "hub"), whole.quantizer)
    assert states_equal(load(tmp_path / "hub"), whole)


def test_the_export_of_a_run_can_be_pushed_as_it_is(tmp_path):
    whole = tiny_model()
    export = save(whole, tmp_path / "export", NOTE)
    assert states_equal(NextFrame.from_pretrained(export), whole)


def test_the_published_network_goes_through_the_hub(tmp_path):
    made = load_quantizer(write_file(tmp_path / "q.pt", QUANTIZER))
    made.save_pretrained(tmp_path / "hub")
    back = Quantizer.from_pretrained(tmp_path / "hub")
    assert isinstance(back, LPQ) and states_equal(back, made)
    assert states_equal(LPQ.from_pretrained(tmp_path / "hub"), made)


def test_a_folder_of_another_kind_is_one_sentence(tmp_path):
    tiny_model().quantizer.save_pretrained(tmp_path / "hub")
    with pytest.raises(ValueError, match=r"holds a Quantizer, expected a LPQ"):
        LPQ.from_pretrained(tmp_path / "hub")
    with pytest.raises(ValueError, match="without a predictor"):
        FramePredictor.from_pretrained(tmp_path / "hub")


def test_the_card_states_data_tokens_steps_flow_error_and_protocol(tmp_path):
    model = tiny_model()
    model.note = NOTE
    model.save_pretrained(tmp_path / "hub", model_card_kwargs={"tokens": "4 M"})
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    rows = dict(
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in card.text.splitlines()
        if line.startswith("| ") and line.count("|") == 3 and line.strip("| ")
    )
    assert rows["training data"] == NOTE["data"]
    assert rows["training tokens"] == "4 M"  # handed in at saving
    assert rows["optimizer steps"] == "1,200"
    assert rows["flow EPE (px)"] == NOTE["flow_epe_px"]
    assert rows["evaluation protocol"] == NOTE["protocol"]
    assert rows["parameters"] == f"{sum(p.numel() for p in model.parameters()):,}"
    assert card.data.library_name == "lras"
    assert "optical-flow" in card.data.tags


def test_a_license_is_stated_only_where_one_is_handed_in(tmp_path):
    converted = load_quantizer(write_file(tmp_path / "q.pt", QUANTIZER))
    converted.save_pretrained(tmp_path / "hub")
    card = ModelCard.load(tmp_path / "hub" / "README.md")
    assert card.data.license is None and f"| license | {NOT_STATED} |" in card.text
    model = tiny_model()
    model.note = NOTE | {"license": "cc0-1.0"}
    assert model.generate_model_card().data.license == "cc0-1.0"
    card = ModelCard(str(model.generate_model_card(license="mit")))
    assert card.data.license == "mit" and "| license | mit |" in card.text
    assert tiny_model().generate_model_card().data.license is None  # kept from one to the next


def test_a_misspelt_option_is_one_sentence(tmp_path):
    tiny_model().save_pretrained(tmp_path / "hub")
    with pytest.raises(ValueError, match=r"got map_locaton, revison, which .*; use .*map_location"):
        NextFrame.from_pretrained(tmp_path / "hub", revison="v1", map_locaton="cpu")
    with pytest.raises(ValueError, match="got quantizer, which it does not know"):
        NextFrame.from_pretrained(tmp_path / "hub", quantizer=tiny_model().quantizer)
    assert NextFrame.from_pretrained(tmp_path / "hub", map_location="cpu", revision="v1")


def test_the_card_spells_errors_by_set_and_many_tokens():
    facts = {"flow_epe_px": {"easy": 0.42, "hard": 3.1}, "tokens": 3_100_000}
    card = str(tiny_model().generate_model_card(**facts))
    assert "| flow EPE (px) | easy 0.42, hard 3.1 |" in card
    assert "| training tokens | 3,100,000 |" in card


def test_the_card_says_so_where_nothing_is_known():
    card = str(tiny_model().generate_model_card())
    assert card.count(NOT_STATED) >= 5
    assert "NextFrame.from_pretrained" in card


def test_an_evaluation_fills_the_card():
    results = {
        "tracers": [{"name": "kl", "epe": 1.25}, {"name": "zero_motion", "epe": 6.5}],
        "dataset": {"name": "easy", "num_pairs": 8, "num_points": 32},
        "protocol": {"seed": 3, "tracer_config": {"num_masks": 4}},
    }
    figures = card_figures(results)
    assert figures["flow_epe_px"] == "1.250 (kl); beside it: zero_motion 6.500"
    assert figures["protocol"] == "easy, 8 pairs, 32 points, seed 3; num_masks=4"


def test_pushing_uploads_one_folder_with_everything_in_it(tmp_path, monkeypatch):
    calls, model = {}, tiny_model()

    def create_repo(self, repo_id, **options):
        calls["created"] = repo_id
        return type("Repo", (), {"repo_id": f"someone/{repo_id}"})()

    def upload_folder(self, *, repo_id, folder_path, **options):
        calls["to"] = repo_id
        calls["files"] = {path.name for path in Path(folder_path).iterdir()}
        calls["same"] = states_equal(NextFrame.from_pretrained(folder_path), model)
        return "a commit"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    assert model.push_to_hub("lras-tiny") == "a commit"
    assert calls == {
        "created": "lras-tiny",
        "to": "someone/lras-tiny",
        "files": {"README.md", "config.json", "model.safetensors"},
        "same": True,
    }


def test_a_repository_is_fetched_by_its_files_and_loaded(tmp_path, monkeypatch):
    model, asked = tiny_model(), {}
    model.save_pretrained(tmp_path / "cache")

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tmp_path / "cache")

    monkeypatch.setattr(lras.hub, "snapshot_download", snapshot_download)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download",
        lambda repo_id, filename, **_: str(tmp_path / "cache" / filename),
    )
    back = NextFrame.from_pretrained("someone/lras-tiny", revision="v1")
    assert states_equal(back, model)
    assert asked["repo_id"] == "someone/lras-tiny" and asked["revision"] == "v1"
    assert "*.safetensors" in asked["allow_patterns"]
    assert not any("pt" in pattern.split(".") for pattern in asked["allow_patterns"])


def test_the_mixin_leaves_weights_and_copies_alone():
    import copy

    model = tiny_model()
    assert states_equal(copy.deepcopy(model), model)
    assert not any("hub" in name for name in model.state_dict())
    with torch.device("meta"):
        assert FramePredictor(model.predictor.cfg).head is None
