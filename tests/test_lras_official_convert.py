"""Published -> ours -> published: identical tensors; what cannot be converted says why."""

import json
import shutil
import sys
import zipfile
from collections import Counter

import pytest
import torch

from benchmarks.official_convert import build, measure, peak_anonymous_bytes, shape_of_7b
from lras.checkpoint import load, load_predictor, load_quantizer, save
from lras.config import PredictorConfig, QuantizerConfig
from lras.memory import check_memory, needed
from lras.next_frame import NextFrame
from lras.official.convert import convert
from lras.official.export import export
from lras.official.files import read_official
from lras.official.names import predictor_config
from lras.official.read_out import PatchParallelNextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from tests.official_files import (
    PREDICTOR,
    QUANTIZER,
    RICH,
    predictor_weights,
    quantizer_weights,
    write_file,
)
from tests.tiny_model import states_equal, tiny_model


@pytest.fixture
def files(tmp_path):
    """A published predictor and its quantizer."""
    predictor = write_file(tmp_path / "p.pt", PREDICTOR, key="model", iteration=3)
    return predictor, write_file(tmp_path / "q.pt", QUANTIZER)


def logits(model: NextFrame) -> torch.Tensor:
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    codes0, codes1 = model.encode(frames[:1]), model.encode(frames[1:])
    order0, order1 = torch.tensor([[2, 0, 3, 1]]), torch.tensor([[1, 3, 0, 2]])
    reveal = torch.tensor([[False, True, False, False]])
    return model.frame1_logits(codes0, codes1, reveal, order0, order1)


@pytest.mark.parametrize("cfg", [PREDICTOR, RICH], ids=["rgb", "rgb_flow_pose"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_predictor_makes_the_round_trip_unchanged(tmp_path, cfg, dtype):
    weights = predictor_weights(cfg, dtype)
    path = write_file(tmp_path / "p.pt", cfg, weights)
    back = read_official(export(convert(path, tmp_path / "ours"), tmp_path / "back.pt"))
    assert back.cfg == cfg and back.weights.keys() == weights.keys()
    for name, value in weights.items():
        assert back.weights[name].dtype == dtype and torch.equal(back.weights[name], value)


def test_a_quantizer_makes_the_round_trip_unchanged(tmp_path, files):
    back = read_official(export(convert(files[1], tmp_path / "ours"), tmp_path / "back.pt"))
    weights = quantizer_weights(QUANTIZER)
    assert back.cfg == QUANTIZER and back.weights.keys() == weights.keys()
    assert all(torch.equal(back.weights[name], value) for name, value in weights.items())


def test_both_as_one_model_come_apart_again(tmp_path, files):
    both = convert(*[files[0], tmp_path / "both"], quantizer=files[1])
    for kind, path in zip(("predictor", "quantizer"), files, strict=True):
        back = read_official(export(both, tmp_path / f"{kind}.pt", kind), kind)
        before = read_official(path)
        assert back.cfg == before.cfg
        assert all(torch.equal(back.weights[n], v) for n, v in before.weights.items())


def test_a_written_file_is_one_that_torch_load_reads_as_usual(tmp_path, files):
    path = export(convert(files[0], tmp_path / "ours"), tmp_path / "back.pt")
    state = torch.load(path, weights_only=True)
    assert state["cfg"] == PREDICTOR
    assert torch.equal(
        state["weights"]["lm_head.weight"], predictor_weights(PREDICTOR)["lm_head.weight"]
    )


def test_files_load_as_they_are_and_converted_alike(tmp_path, files):
    direct = load(files[0], quantizer=files[1])
    both = load(convert(files[0], tmp_path / "both", quantizer=files[1]))
    apart = load(
        convert(files[0], tmp_path / "p"), quantizer=convert(files[1], tmp_path / "quantizer")
    )
    assert logits(direct).abs().max() > 0.1
    for other in (both, apart):
        assert states_equal(direct, other)
        assert torch.equal(logits(direct), logits(other))
    assert states_equal(load_predictor(files[0]), direct.predictor)
    assert states_equal(load_quantizer(files[1]), load_quantizer(tmp_path / "both"))


def test_a_model_of_more_tokens_answers_on_rgb_as_its_rgb_part(tmp_path, files):
    """The rows that RGB uses, moved to where the longer tables keep them."""
    small, weights = predictor_weights(PREDICTOR), predictor_weights(RICH)
    ids = {"rgb_range": 0, "rgb_patch_0_idx_range": 16, "rgb_patch_1_idx_range": 20}
    places = {"frame_0_rgb_pos_range": 0, "frame_1_rgb_pos_range": 20}
    for name, starts in (
        ("transformer.token_embedding.weight", ids),
        ("lm_head.weight", ids),
        ("transformer.positional_embedding.weight", places),
    ):
        for key, start in starts.items():
            first, end = RICH[key]
            weights[name][first:end] = small[name][start : start + end - first]
    blocks = {name: value for name, value in small.items() if ".h." in name or "ln_f" in name}
    rich = write_file(tmp_path / "rich.pt", RICH, weights | blocks)
    assert torch.equal(
        logits(load(rich, quantizer=files[1])), logits(load(files[0], quantizer=files[1]))
    )
    kept = load(convert(rich, tmp_path / "rich"), quantizer=files[1]).predictor.cfg
    assert kept.ranges.flow == (16, 24) and kept.ranges.pose_places == (80, 88)
    assert (kept.vocab_size, kept.num_places) == (70, 90)


@pytest.mark.parametrize(
    "sizes, parameters",
    [
        ({}, 7_038_308_352),
        ({"block_size": 19_456, "vocab_size": 69_120, "flow_range": (67_584, 68_096),
          "flow_patch_idx_range": (68_096, 69_120), "flow_pos_range": (10_240, 19_456)},
         7_088_640_000),
        ({"n_layer": 36, "n_head": 20, "n_embd": 1280, "block_size": 22_536,
          "vocab_size": 111_616, "flow_range": (67_584, 100_352),
          "flow_patch_idx_range": (100_352, 101_376), "flow_pos_range": (10_240, 22_528),
          "campose_range": (101_376, 111_376), "campose_patch_idx_range": (111_376, 111_377),
          "campose_pos_range": (22_528, 22_536)}, 1_022_465_280),
    ],
    ids=["rgb_7b", "rgb_flow_7b", "campose_flow_1b"],
)  # fmt: skip
def test_the_published_sizes_have_the_published_numbers_of_parameters(sizes, parameters):
    with torch.device("meta"):
        predictor = FramePredictor(predictor_config(shape_of_7b() | sizes))
    assert sum(weight.numel() for weight in predictor.parameters()) == parameters


def test_a_quantizer_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, files):
    larger = write_file(tmp_path / "large.pt", QUANTIZER | {"vocab_size": 32})
    with pytest.raises(ValueError, match=r"makes 32 codes .* expects 16"):
        convert(files[0], tmp_path / "out", quantizer=larger)
    with pytest.raises(ValueError, match="expected a quantizer"):
        convert(files[0], tmp_path / "out", quantizer=files[0])
    assert not (tmp_path / "out").exists()


def test_another_quantizer_than_the_one_inside_is_refused(tmp_path, files):
    both = convert(files[0], tmp_path / "both", quantizer=files[1])
    weights = quantizer_weights(QUANTIZER)
    weights["quantizer.project_in.bias"] += 1
    other = write_file(tmp_path / "other.pt", QUANTIZER, weights)
    with pytest.raises(ValueError, match="leave quantizer= out"):
        load(both, quantizer=other)
    assert states_equal(load(both, quantizer=files[1]), load(both))


def test_no_room_is_one_sentence_and_nothing_is_written(tmp_path, files, monkeypatch):
    full = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(ValueError, match=r"0\.0 GB left; make room"):
        convert(files[0], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def own_model(**change) -> NextFrame:
    """A model made here, of the official preset but for ``change``."""
    sizes = {"image_size": 16, "patch_px": 8, "num_codes": 16, "dim": 16, "num_heads": 2}
    cfg = PredictorConfig.official(**(sizes | {"num_layers": 1} | change))
    torch.manual_seed(0)
    return NextFrame(Quantizer(QuantizerConfig(num_codes=16)), FramePredictor(cfg))


def test_a_model_of_the_official_preset_is_written_in_the_published_layout(tmp_path):
    model = own_model()
    path = export(save(model, tmp_path / "run"), tmp_path / "back.pt")
    cfg = read_official(path, "predictor").cfg
    ranges = {key: value for key, value in cfg.items() if key.endswith("_range")}
    assert ranges == {key: value for key, value in PREDICTOR.items() if key.endswith("_range")}
    assert predictor_config(cfg).ranges.places1 == (20, 40)
    loaded = load_predictor(path)
    assert states_equal(loaded, model.predictor)
    assert torch.equal(logits(NextFrame(model.quantizer, loaded)), logits(model))


def test_a_written_file_is_a_sound_archive(tmp_path, files):
    path = export(convert(files[0], tmp_path / "ours"), tmp_path / "back.pt")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        checksums = {one.filename: one.CRC for one in archive.infolist()}
        assert checksums["back.pt/data/0"]


def test_a_failing_export_leaves_the_older_file_and_no_other(tmp_path, files, monkeypatch):
    ours, out = convert(files[0], tmp_path / "ours"), tmp_path / "back.pt"
    out.write_bytes(b"older")
    cat = torch.cat

    def full(parts: list[torch.Tensor], **named) -> torch.Tensor:
        if "out" in named:  # into the file
            raise OSError("disk full")
        return cat(parts, **named)

    monkeypatch.setattr(torch, "cat", full)
    with pytest.raises(OSError, match="disk full"):
        export(ours, out)
    assert out.read_bytes() == b"older" and not list(tmp_path.glob("*.partial"))


def test_an_export_that_cannot_be_given_back_is_one_sentence(tmp_path, files):
    ours = convert(files[0], tmp_path / "ours")
    with pytest.raises(ValueError, match="is a folder"):
        export(tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match=r"q.pt is a file"):
        export(ours, files[1] / "back.pt")
    about = json.loads((ours / "config.json").read_text())
    for layers, sentence in ((3, "promises 3 layers"), (10**9, "layers"), ("2", "n_layer='2'")):
        about["note"]["official"]["predictor"]["n_layer"] = layers
        (ours / "config.json").write_text(json.dumps(about))
        with pytest.raises(ValueError, match=sentence):
            export(ours, tmp_path / "back.pt")
    assert not list(tmp_path.glob("back*"))


def test_nested_values_of_a_cfg_come_back(tmp_path):
    cfg = QUANTIZER | {"nested": {"pair": (1, 2), "blocks": [("a", 1)]}, "rate": None}
    path = write_file(tmp_path / "q.pt", cfg)
    back = export(convert(path, tmp_path / "ours"), tmp_path / "back.pt")
    assert read_official(back).cfg == cfg


@pytest.mark.parametrize(
    "change", [{"norm": "rms"}, {"mlp": "squared_relu"}, {"tied_head": True}, {"qk_norm": True}]
)
def test_another_network_is_refused_by_name(tmp_path, change):
    run = save(own_model(**change), tmp_path / "run")
    (name, value), out = *change.items(), tmp_path / "back.pt"
    with pytest.raises(ValueError, match=rf"{name}={value}; only models of the official preset"):
        export(run, out)
    assert not out.exists()


def test_our_own_presets_and_quantizers_are_refused(tmp_path):
    run = save(tiny_model(), tmp_path / "run")
    with pytest.raises(ValueError, match="positions=rotary"):
        export(run, tmp_path / "back.pt")
    with pytest.raises(ValueError, match="kmeans one of our own"):
        export(run, tmp_path / "back.pt", "quantizer")
    alone = save(tiny_model().quantizer, tmp_path / "alone")
    with pytest.raises(ValueError, match="holds no predictor"):
        export(alone, tmp_path / "back.pt", "predictor")


def test_the_predictor_can_be_loaded_in_another_precision(files):
    whole = load(files[0], quantizer=files[1])
    half = load(files[0], quantizer=files[1], dtype=torch.bfloat16)
    assert {value.dtype for value in half.predictor.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in half.quantizer.parameters()} == {torch.float32}
    difference = (logits(half) - logits(whole)).abs().max()
    assert 0 < difference < 0.1 * logits(whole).abs().max()


@pytest.mark.parametrize("read_as", [NextFrame, PatchParallelNextFrame])
def test_offloaded_blocks_visit_the_device_and_answer_alike(files, monkeypatch, read_as):
    whole, visitor = (
        read_as(model.quantizer, model.predictor)
        for model in (load(files[0], quantizer=files[1], offload=o) for o in (False, True))
    )
    home = {name: value.data_ptr() for name, value in visitor.named_parameters()}
    visits, move = [], torch.Tensor.to
    monkeypatch.setattr(
        torch.Tensor, "to", lambda self, *a, **k: visits.append(self.shape) or move(self, *a, **k)
    )
    answer = logits(visitor)
    monkeypatch.undo()
    weights = Counter(value.shape for value in visitor.predictor.blocks.parameters())
    moved = Counter(shape for shape in visits if shape in weights)
    assert all(moved[shape] >= 2 * count for shape, count in weights.items())
    assert torch.equal(answer, logits(whole))
    assert {name: value.data_ptr() for name, value in visitor.named_parameters()} == home
    assert states_equal(visitor, whole)


def test_what_is_needed_is_known_before_weights_are_read(tmp_path, files):
    need = needed(files[0], max_batch=2)
    size = sum(value.nbytes for value in predictor_weights(PREDICTOR).values())
    assert need.weights == size
    assert needed(files[0], max_batch=2, dtype=torch.bfloat16).weights == size // 2
    assert needed(files[0], max_batch=2, copies=2).weights == 2 * size
    blocks = sum(v.nbytes for n, v in predictor_weights(PREDICTOR).items() if ".h." in n)
    assert needed(files[0], max_batch=2, offload=True).weights == size - blocks // 2
    assert needed(files[0], max_batch=4).work == 2 * need.work
    with pytest.raises(ValueError, match="pass it as quantizer="):
        needed(files[1], max_batch=1)


def test_too_little_memory_is_one_sentence_that_says_what_to_try(files, monkeypatch):
    need = needed(files[0], max_batch=8)
    check_memory(need, "cpu")
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    with pytest.raises(ValueError, match="dtype=bfloat16 or max_batch=4"):
        check_memory(need, "cpu")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10, 100))
    with pytest.raises(ValueError, match="offload=true"):
        check_memory(need, "cuda")


@pytest.mark.slow
def test_conversion_holds_no_weights_in_memory(tmp_path):
    """A hundredth of the published 7B; the whole of it is measured by the benchmark itself."""
    cfg = shape_of_7b(layers=4, dim=384, heads=4)
    figures = measure(tmp_path, cfg, max_shard="40MB")
    assert figures["tensors_that_differ"] == 0 and figures["shards"] > 2
    small = build(tmp_path / "small.pt", shape_of_7b(layers=1, dim=16, heads=1))
    words = [sys.executable, "-m", "lras.official", "inspect", str(small)]
    imports_alone = peak_anonymous_bytes(words) / 1e9
    beyond = figures["peak_anonymous_gb"] - imports_alone
    assert beyond < 0.25 * figures["checkpoint_gb"]
