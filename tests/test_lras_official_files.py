"""Published files are read without running what they name; what is wrong ends in one sentence."""

import argparse
import os
import zipfile
from pathlib import Path

import pytest
import torch

from lras.checkpoint import load, load_quantizer
from lras.official.__main__ import main
from lras.official.convert import convert
from lras.official.files import read_official, read_torch_file
from lras.official.names import predictor_shapes
from tests.official_files import (
    PREDICTOR,
    QUANTIZER,
    RICH,
    predictor_weights,
    quantizer_weights,
    write_file,
)


def refused(call, *given) -> str:
    """The one sentence of a ValueError or FileNotFoundError."""
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        call(*given)
    sentence = str(caught.value)
    assert len(sentence.splitlines()) == 1 and sentence.endswith(".")
    return sentence


@pytest.mark.parametrize("key", ["weights", "model"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "_orig_module.", "module._orig_mod."])
def test_a_file_is_read_whatever_wrapped_the_model(tmp_path, key, prefix):
    weights = predictor_weights(PREDICTOR)
    args = argparse.Namespace(lr=3e-4, name="run")
    path = write_file(tmp_path / "p.pt", PREDICTOR, weights, key, prefix, args=args, iteration=7)
    found = read_official(path)
    assert found.kind == "predictor" and found.cfg == PREDICTOR
    assert found.weights.keys() == weights.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in weights.items())
    assert found.other == {"args": args, "iteration": 7}


def test_weights_are_views_of_the_file(tmp_path):
    path = write_file(tmp_path / "p.pt", PREDICTOR)
    name = "transformer.h.0.mlp.c_fc.weight"
    found = read_official(path).weights[name]
    content = path.read_bytes()
    at = content.index(predictor_weights(PREDICTOR)[name].numpy().tobytes())
    with path.open("r+b") as file:  # in place: whoever maps the file sees it
        file.seek(at)
        file.write(bytes(4))
    assert found.flatten()[0] == 0


class Foreign:
    """Would leave a trace if it were ever built."""

    built: list[str] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.value = 1

    def __setstate__(self, state: dict) -> None:
        Foreign.built.append("state")

    def __new__(cls) -> "Foreign":
        Foreign.built.append("new")
        return super().__new__(cls)


class Command:
    """A pickle that runs a command when an ordinary unpickler reads it."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


def test_a_foreign_class_is_named_and_not_constructed(tmp_path):
    path = write_file(tmp_path / "p.pt", PREDICTOR, args=Foreign())
    Foreign.built.clear()
    assert f"names {__name__}.Foreign" in refused(read_official, path)
    assert not Foreign.built
    torch.load(path, weights_only=False)  # the trap does spring where nobody is careful
    assert Foreign.built == ["new", "state"]


@pytest.mark.parametrize("call", [read_official, load, load_quantizer])
def test_a_foreign_function_is_named_and_not_called(tmp_path, call):
    path = write_file(tmp_path / "p.pt", PREDICTOR, args=Command(tmp_path / "trace"))
    assert "posix.mkdir" in refused(call, path)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_one_sentence(tmp_path, share):
    path = write_file(tmp_path / "p.pt", PREDICTOR)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "copy" in refused(read_official, path)


def test_what_is_no_checkpoint_at_all_is_one_sentence(tmp_path):
    text = tmp_path / "text.pt"
    text.write_text("hello, I am no archive")
    assert "torch.save's zip format" in refused(read_torch_file, text)
    assert "is a folder" in refused(read_torch_file, tmp_path)
    assert "is not there" in refused(read_torch_file, tmp_path / "none.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in refused(read_torch_file, tmp_path / "list.pt")
    old = tmp_path / "old.pt"
    torch.save({"cfg": {}}, old, _use_new_zipfile_serialization=False)
    assert "torch.save's zip format" in refused(read_torch_file, old)


def rezipped(path: Path, out: Path, pickled: bytes | None = None, how: int = 0) -> Path:
    """The same archive written anew: with another pickle in it, or compressed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", how) as new:
        for name in old.namelist():
            other = pickled if name.endswith("data.pkl") else None
            new.writestr(name, old.read(name) if other is None else other)
    return out


@pytest.mark.parametrize("call", [read_official, load])
def test_a_compressed_file_is_refused_and_not_misread(tmp_path, call):
    path = write_file(tmp_path / "p.pt", PREDICTOR)
    stored = read_official(rezipped(path, tmp_path / "stored.pt")).weights
    assert all(torch.equal(stored[n], v) for n, v in predictor_weights(PREDICTOR).items())
    packed = rezipped(path, tmp_path / "packed.pt", how=zipfile.ZIP_DEFLATED)
    assert "is compressed (p/data.pkl)" in refused(call, packed)


def nested(tuples: int, as_key: bool) -> bytes:
    """A pickle of tuples in one another, as a dict's key or as its value."""
    inner = b"N" + tuples * b"\x85"
    return b"\x80\x02}" + (inner + b"N" if as_key else b"X\x01\x00\x00\x00a" + inner) + b"s."


def doubling(times: int) -> bytes:
    """A key of ``2 ** times`` items in a few bytes: pairs of one pair twice."""
    pairs = (b"q%ch%c\x86" % (n, n) for n in range(times))
    return b"\x80\x02}N" + b"".join(pairs) + b"Ns."


ABSURD = {
    "deep keys": (nested(10**6, as_key=True), "beyond all measure"),
    "deep values": (nested(10**6, as_key=False), "beyond all measure"),
    "wide keys": (doubling(40), "beyond all measure"),
    "many steps": (b"\x80\x02" + 510_000 * b"N" + b".", "beyond all measure"),
    "a long pickle": (b"\x80\x02" + 17 * 2**20 * b"N" + b".", "expected at most 16,777,216"),
    "a number cut off": (b"\x80\x02X\x01", "torch.save's zip format"),
    "an instruction unheard of": (b"\x80\x02\xff.", "torch.save's zip format"),
    "nothing on the stack": (b"\x80\x02\x85.", "torch.save's zip format"),
    "a terabyte": (
        b"\x80\x02cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x10\x85R.",
        "names builtins.bytearray",
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_absurd_pickle_is_refused_before_it_is_built(tmp_path, case):
    pickled, sentence = ABSURD[case]
    path = write_file(tmp_path / "p.pt", PREDICTOR)
    assert sentence in refused(read_torch_file, rezipped(path, tmp_path / "bad.pt", pickled))


def test_what_other_code_allows_torch_to_build_is_not_allowed_here(tmp_path):
    path = write_file(tmp_path / "p.pt", PREDICTOR, args=Foreign())
    Foreign.built.clear()
    with torch.serialization.safe_globals([Foreign]):
        assert f"names {__name__}.Foreign" in refused(read_official, path)
    assert not Foreign.built


def laughs() -> list:
    """Ten to the ninth words in a few lists."""
    words = 10 * ["ha"]
    for _ in range(8):
        words = 10 * [words]
    return words


def endless() -> list:
    words = []
    words.append(words)
    return words


NOT_PLAIN = {
    "a dtype": torch.float32,
    "a tensor": torch.zeros(2),
    "an object": argparse.Namespace(a=1),
    "a set": {1, 2},
    "a number beyond all tables": 2**80,
    "a list in itself": endless(),
    "a list of lists of lists": laughs(),
    "numbered values": {1: 2},
}


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_a_cfg_of_more_than_plain_data_is_refused_before_anything_is_written(tmp_path, case):
    path = write_file(tmp_path / "p.pt", PREDICTOR | {"extra": NOT_PLAIN[case]})
    assert "its cfg says 'extra': " in refused(convert, path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_inspect_shows_nested_values_in_short(tmp_path, capsys):
    args = argparse.Namespace(words=laughs(), inner=argparse.Namespace(more=laughs()))
    path = write_file(tmp_path / "p.pt", PREDICTOR, args=args, words=[endless()])
    assert main(["inspect", str(path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) < 500


def test_a_tensor_that_repeats_one_number_is_refused(tmp_path):
    one = torch.zeros(1)
    weights = {name: one.expand(shape) for name, shape in predictor_shapes(PREDICTOR).items()}
    path = write_file(tmp_path / "p.pt", PREDICTOR, weights)
    assert "holds fewer numbers than" in refused(read_official, path)
    largest = torch.zeros(max(value.numel() for value in weights.values()))
    weights = {n: largest[: v.numel()].view(v.shape) for n, v in weights.items()}
    path = write_file(tmp_path / "p.pt", PREDICTOR, weights)
    assert "holds fewer numbers than its tensors" in refused(read_official, path)


CONTRADICTIONS = {
    "a layer too many": ({"n_layer": 3}, "lacks transformer.h.2"),
    "a layer too few": ({"n_layer": 1}, "also holds transformer.h.1"),
    "another width": ({"n_embd": 32}, "but the cfg says"),
    "a longer vocabulary": ({"vocab_size": 25}, "but the cfg says (25, 16)"),
    "a longer position table": ({"block_size": 41}, "but the cfg says (41, 16)"),
    "heads that do not divide": ({"n_head": 3}, "multiple of num_heads=3"),
    "biases": ({"bias": True}, "bias=True"),
    "ids beyond the vocabulary": ({"rgb_patch_1_idx_range": (21, 25)}, "vocab_size=24"),
    "positions beyond the table": ({"frame_1_rgb_pos_range": (21, 41)}, "block_size=40"),
    "ranges that meet": ({"flow_range": (14, 18)}, "overlap"),
    "positions that meet": ({"campose_pos_range": (30, 38)}, "overlap"),
    "frames of unlike size": ({"rgb_patch_1_idx_range": (20, 23)}, "4 and 3 patches"),
    "patches not square": (
        {"rgb_patch_0_idx_range": (16, 18), "rgb_patch_1_idx_range": (20, 22)},
        "one square number",
    ),
    "too few positions": ({"frame_1_rgb_pos_range": (20, 39)}, "20 and 19 positions"),
    "codes that start late": ({"rgb_range": (1, 16)}, "starts at 0"),
    "a falling range": ({"rgb_range": (16, 0)}, "two rising whole numbers"),
    "a range of words": ({"rgb_range": ("0", "16")}, "two rising whole numbers"),
    "a size that is none": ({"n_layer": -2}, "n_layer=-2"),
    "more layers than fit anywhere": ({"n_layer": 10**9}, "6000000004 tensors"),
    "a size beyond all tables": ({"n_embd": 2**40}, "n_embd=1099511627776"),
    "a size that is no number": ({"n_layer": True}, "n_layer=True"),
    "no size": ({"n_head": None}, "lacks n_head"),
    "no range": ({"frame_0_rgb_pos_range": None}, "lacks frame_0_rgb_pos_range"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_cfg_that_contradicts_the_tensors_or_itself_is_one_sentence(tmp_path, case):
    change, sentence = CONTRADICTIONS[case]
    path = write_file(tmp_path / "p.pt", PREDICTOR | change, predictor_weights(PREDICTOR))
    assert sentence in refused(read_official, path)


QUANTIZER_CONTRADICTIONS = {
    "more codes": ({"vocab_size": 32}, "but the cfg says"),
    "no power of two": ({"vocab_size": 17}, "power of two"),
    "another width": (
        {"encoder_blocks": [("ResBlock", 8, 8, 32, 1, 1, 0)]},
        "encoder.2.conv1.weight",
    ),
    "a wide encoder": ({"encoder_blocks": [("ResBlock", 8, 8, 16, 3, 1, 1)]}, "beyond its cell"),
    "an unknown block": ({"decoder_blocks": [("Swirl", 8, 8)]}, "('Swirl', 8, 8)"),
    "another cell": ({"patch_size": 8}, "code_px=8"),
    "two codebooks": ({"num_codebooks": 2}, "one codebook"),
    "unlike channels": ({"num_out_channels": 2}, "channels out as in"),
    "no blocks": ({"encoder_blocks": None}, "lacks encoder_blocks"),
    "blocks that are none": ({"decoder_blocks": 5}, "decoder_blocks=5"),
    "blocks in words": ({"decoder_blocks": "abc"}, "decoder_blocks='abc'"),
    "a block that is none": ({"decoder_blocks": [5]}, "the block 5"),
    "a block without sizes": ({"decoder_blocks": [("Upsample",)]}, "the block ('Upsample',)"),
    "a huge width": ({"encoder_blocks": [("ResBlock", 8, 8, 2**62, 1, 1, 0)]}, "at most 65536"),
    "a negative width": ({"encoder_blocks": [("ResBlock", 8, 8, -3, 1, 1, 0)]}, "8, 8, -3"),
    "codes in words": ({"vocab_size": "16"}, "vocab_size='16'"),
    "half a code": ({"vocab_size": 2.0}, "vocab_size=2.0"),
    "channels in words": ({"num_in_channels": "3", "num_out_channels": "3"}, "channels='3'"),
}


@pytest.mark.parametrize("case", QUANTIZER_CONTRADICTIONS)
def test_the_same_of_a_quantizer(tmp_path, case):
    change, sentence = QUANTIZER_CONTRADICTIONS[case]
    path = write_file(tmp_path / "q.pt", QUANTIZER | change, quantizer_weights(QUANTIZER))
    assert sentence in refused(read_official, path)


def test_a_quantizer_of_another_bit_order_is_refused(tmp_path):
    weights = quantizer_weights(QUANTIZER)
    weights["quantizer.mask"] = weights["quantizer.mask"].flip(0)
    assert "bit order" in refused(read_official, write_file(tmp_path / "q.pt", QUANTIZER, weights))


def test_weights_that_are_no_named_tensors_are_refused(tmp_path):
    path = tmp_path / "p.pt"
    torch.save({"cfg": PREDICTOR, "weights": {"lm_head.weight": 3}}, path)
    assert "no dict of named tensors" in refused(read_official, path)
    twice = predictor_weights(PREDICTOR)
    twice["_orig_mod.lm_head.weight"] = twice["lm_head.weight"]
    assert "lm_head.weight twice" in refused(
        read_official, write_file(path, PREDICTOR, twice, prefix="")
    )
    whole = predictor_weights(PREDICTOR)
    whole["lm_head.weight"] = whole["lm_head.weight"].long()
    assert "expected floating point" in refused(read_official, write_file(path, PREDICTOR, whole))
    torch.save({"cfg": {"width": 3}, "weights": {}}, path)
    assert "describes neither" in refused(read_official, path)
    torch.save({"weights": {}}, path)
    assert "expected cfg and model or weights" in refused(read_official, path)


def test_predictor_and_quantizer_are_not_taken_for_one_another(tmp_path):
    predictor = write_file(tmp_path / "p.pt", PREDICTOR)
    quantizer = write_file(tmp_path / "q.pt", QUANTIZER)
    assert "pass it as ckpt=" in refused(read_official, predictor, "quantizer")
    assert "pass it as quantizer=" in refused(read_official, quantizer, "predictor")
    assert "pass it as quantizer=, not as ckpt=" in refused(load, quantizer)
    assert "pass it as ckpt=, not as quantizer=" in refused(load_quantizer, predictor)
    assert "pass quantizer=FILE as well" in refused(load, predictor)


def test_inspect_prints_what_is_in_a_file(tmp_path, capsys):
    path = write_file(tmp_path / "p.pt", RICH, args=argparse.Namespace(lr=0.5), iteration=9)
    assert main(["inspect", str(path)]) == 0
    said = capsys.readouterr().out
    for part in ("n_layer: 2", "flow_range: (16, 24)", "lr=0.5", "iteration: 9"):
        assert part in said
    assert "_orig_mod.lm_head.weight: (70, 16) float32" in said
    assert said.splitlines()[-1].startswith("a published predictor: ")


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "{}/none.pt"),
        ("inspect", "{}/bad.pt"),
        ("convert", "{}/none.pt", "{}/out"),
        ("convert", "{}/bad.pt", "{}/out"),
        ("export", "{}/none", "{}/out.pt"),
        ("verify", "{}/none", "--golden", "{}"),
    ],
)
def test_a_mistake_at_the_command_line_is_one_sentence(tmp_path, capsys, words):
    write_file(tmp_path / "bad.pt", PREDICTOR | {"n_layer": 9}, predictor_weights(PREDICTOR))
    assert main([word.format(tmp_path) for word in words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.pt").exists()


def test_a_misspelt_command_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as status:
        main(["conwert", "x"])
    assert status.value.code == 1
    assert "conwert" in capsys.readouterr().err


@pytest.mark.shared
def test_the_published_classes_own_file_is_read(shared_root):
    found = read_official(shared_root / "golden" / "tiny_quantizer.pt")
    assert found.kind == "quantizer" and len(found.weights) == 73
    assert isinstance(found.other["args"], argparse.Namespace)
