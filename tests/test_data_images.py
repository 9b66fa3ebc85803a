"""Image files: whatever is a plain picture becomes RGB in [0, 1], the rest one sentence."""

import numpy as np
import pytest
import torch
from PIL import Image

from data.images import read_image


def save(path, pixels, mode=None, **options):
    Image.fromarray(pixels, mode).save(path, **options)
    return path


def noise(*shape, high=256, dtype=np.uint8):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def test_color_comes_back_bit_for_bit(tmp_path):
    pixels = noise(5, 7, 3)
    frame = read_image(save(tmp_path / "a.png", pixels))
    assert frame.shape == (3, 5, 7) and frame.dtype == torch.float32
    assert torch.equal(frame, torch.from_numpy(pixels).movedim(-1, 0).float() / 255)


def test_gray_of_8_and_of_16_bits_is_three_equal_channels(tmp_path):
    for bits, pixels in ((8, noise(5, 7)), (16, noise(5, 7, high=2**16, dtype=np.uint16))):
        frame = read_image(save(tmp_path / f"{bits}.png", pixels))
        expected = torch.from_numpy(pixels.astype(np.float32) / np.float32(2**bits - 1))
        assert torch.equal(frame, expected.expand(3, -1, -1))


def test_an_opaque_alpha_channel_is_dropped_and_transparency_refused(tmp_path):
    pixels = noise(5, 7, 4)
    pixels[..., 3] = 255
    frame = read_image(save(tmp_path / "opaque.png", pixels))
    assert torch.equal(frame, torch.from_numpy(pixels[..., :3]).movedim(-1, 0).float() / 255)
    pixels[2, 2, 3] = 254
    with pytest.raises(ValueError, match=r"clear\.png is transparent in places; save it"):
        read_image(save(tmp_path / "clear.png", pixels))


def test_a_palette_is_looked_up(tmp_path):
    colors = np.zeros((2, 2, 3), np.uint8)
    colors[0, 1] = 255, 0, 0
    path = tmp_path / "p.png"
    Image.fromarray(colors).quantize(4).save(path)
    assert read_image(path)[:, 0, 1].tolist() == [1, 0, 0]


def test_a_photograph_is_turned_upright_as_it_says(tmp_path):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :8] = 255  # top left as stored
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    frame = read_image(save(tmp_path / "phone.png", pixels, exif=exif))
    assert frame.shape == (3, 32, 16)
    assert frame[:, :8, 8:].min() == 1 and frame[:, :, :8].max() == 0


def test_floating_point_pictures_must_be_finite_and_in_range(tmp_path):
    pixels = noise(5, 7).astype(np.float32) / 255
    frame = read_image(save(tmp_path / "fine.tiff", pixels))
    assert torch.equal(frame[1], torch.from_numpy(pixels))
    for name, value in (("nan", np.nan), ("hdr", 1.5)):
        pixels[1, 1] = value
        with pytest.raises(ValueError, match=rf"{name}\.tiff has 1 values that are NaN or outside"):
            read_image(save(tmp_path / f"{name}.tiff", pixels))


def test_what_is_no_picture_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.png is not a file"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png")
    whole = save(tmp_path / "whole.png", noise(64, 64, 3)).read_bytes()
    (tmp_path / "half.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half\.png cannot be read as an image"):
        read_image(tmp_path / "half.png")
