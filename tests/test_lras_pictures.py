"""Pictures of predictions: the same pairs and dice every time, and training never notices."""

import logging
import zlib
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from hydra.utils import instantiate
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lras.grid import PatchGrid
from lras.pictures import GAP_PX, KEY, PredictionPictures, gray_where_hidden, strip
from lras.predictor_module import PredictorModule
from tests.tiny_model import states_equal, tiny_model

CONFIG = Path(__file__).parents[1] / "configs/callbacks/pictures.yaml"


class Album(CSVLogger):
    """A logger that keeps the pictures it is given."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.shown: list[tuple[int, list[np.ndarray], list[str]]] = []

    def log_image(self, key, images, step, caption):
        assert key == KEY
        self.shown.append((step, images, caption))


class Noise(L.LightningDataModule):
    """Pairs of noise; the held-out ones come in two batches."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader([noise_batch(4, f"train{step}") for step in range(6)], batch_size=None)

    def val_dataloader(self) -> DataLoader:
        return DataLoader([noise_batch(2, f"held-out{i}") for i in range(2)], batch_size=None)


def noise_batch(batch: int, key: str) -> dict:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    frames = torch.randint(0, 256, (batch, 2, 3, 16, 16), generator=generator, dtype=torch.uint8)
    gap = torch.ones(batch, dtype=torch.long)
    return {"frames": frames, "gap": gap, "key": [f"{key}/{i}" for i in range(batch)]}


def fitted(
    folder: Path, *callbacks: L.Callback, lr: float = 0.02, bare_loaders: bool = False
) -> tuple[PredictorModule, Album]:
    """Six steps and one validation."""
    model, album, data = tiny_model(), Album(folder), Noise()
    module = PredictorModule(
        model.predictor,
        model.quantizer,
        optimizer=lambda net: torch.optim.AdamW(net.parameters(), lr=lr),
        warmup_steps=2,
    )
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_steps=6, callbacks=list(callbacks), logger=album,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    given = [data.train_dataloader(), data.val_dataloader()] if bare_loaders else [data]
    trainer.fit(module, *given)
    return module, album


def test_training_never_notices_the_pictures(tmp_path):
    def trained(*callbacks):
        torch.manual_seed(3)
        module, album = fitted(tmp_path, *callbacks)
        return module, torch.rand(3).tolist(), album

    plain, plain_dice, _ = trained()
    pictured, dice, album = trained(PredictionPictures(every_n_steps=2))
    assert len(album.shown) == 4
    assert states_equal(plain, pictured)
    assert dice == plain_dice
    assert pictured.predictor.training == plain.predictor.training


def test_pictures_come_at_the_start_every_so_often_and_at_the_end_once_a_step(tmp_path):
    _, album = fitted(tmp_path, PredictionPictures(num_pairs=3, every_n_steps=4))
    assert [step for step, *_ in album.shown] == [0, 4, 6]
    _, album = fitted(tmp_path, PredictionPictures(num_pairs=3))
    assert [step for step, *_ in album.shown] == [6]  # the end of validation
    (_, images, captions) = album.shown[0]
    assert len(images) == len(captions) == 3
    assert captions[0] == "held-out0/0, step 6: frame 0 | 10% of frame 1 | 2 draws | frame 1"
    assert {(image.shape, image.dtype) for image in images} == {
        ((128, 5 * 128 + 4 * GAP_PX, 3), np.dtype(np.uint8))
    }


def test_loaders_without_a_data_module_are_pictured_from_the_first_validation_on(tmp_path):
    pictures = PredictionPictures(num_pairs=2, every_n_steps=2)
    _, album = fitted(tmp_path, pictures, bare_loaders=True)
    assert [step for step, *_ in album.shown] == [6]
    assert pictures.keys == ["held-out0/0", "held-out0/1"]


def test_an_unchanged_model_is_pictured_the_same_at_every_step(tmp_path):
    _, album = fitted(tmp_path, PredictionPictures(every_n_steps=3), lr=0.0)
    (_, first, _), *later = album.shown
    for _, images, _ in later:
        assert all(np.array_equal(a, b) for a, b in zip(first, images, strict=True))
    _, album = fitted(tmp_path, PredictionPictures(every_n_steps=3), lr=0.1)
    assert not np.array_equal(album.shown[0][1][0], album.shown[-1][1][0])


def test_a_strip_holds_the_true_frames_and_keeps_what_is_revealed():
    model, pictures = tiny_model().eval(), PredictionPictures(num_draws=1, revealed_share=0.5)
    pictures.keys = ["a", "b"]
    frames = torch.randint(0, 256, (2, 2, 3, 16, 16), dtype=torch.uint8)
    for image, (frame0, frame1) in zip(pictures.strips(model, frames), frames, strict=True):
        small = image[::8, :, :]
        panels = [small[:, i * (128 + GAP_PX) :][:, :128][:, ::8] for i in range(4)]
        assert np.array_equal(panels[0], frame0.movedim(0, -1))
        assert np.array_equal(panels[3], frame1.movedim(0, -1))
        decoded = model.decode(model.encode(frame1[None].float() / 255))[0].movedim(0, -1)
        decoded = (decoded * 255).round().to(torch.uint8).numpy()
        gray = (panels[1] == 128).all(-1)
        assert gray.mean() == 0.5
        assert np.array_equal(panels[1][~gray], decoded[~gray])
        assert np.array_equal(panels[2][~gray], decoded[~gray])
        assert not np.array_equal(panels[2][gray], decoded[gray])


def test_hidden_patches_are_gray():
    frames = torch.rand(1, 3, 8, 8)
    shown = gray_where_hidden(
        frames, torch.tensor([[True, False, False, True]]), PatchGrid(8, 8, 4, 4)
    )
    assert torch.equal(shown[..., :4, :4], frames[..., :4, :4])
    assert torch.equal(shown[..., 4:, 4:], frames[..., 4:, 4:])
    assert (shown[..., :4, 4:] == 0.5).all() and (shown[..., 4:, :4] == 0.5).all()


def test_large_frames_are_shown_pixel_by_pixel():
    image = strip(torch.rand(3, 3, 130, 130))
    assert image.shape == (130, 3 * 130 + 2 * GAP_PX, 3)
    assert (image[:, 130 : 130 + GAP_PX] == 255).all()


def test_weights_that_are_no_numbers_cost_the_pictures_and_not_the_run(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        module, album = fitted(tmp_path, PredictionPictures(every_n_steps=3), lr=float("inf"))
    assert [step for step, *_ in album.shown] == [0]
    assert "no predictions are pictured at step 3: the model's logits are NaN" in caplog.text
    assert module.trainer.global_step == 6


def test_without_a_logger_for_pictures_nothing_is_drawn(tmp_path, monkeypatch):
    monkeypatch.delattr(Album, "log_image")
    pictures = PredictionPictures(every_n_steps=2)
    fitted(tmp_path, pictures)
    assert pictures.frames is None


@pytest.mark.parametrize(
    "wrong", [{"num_pairs": 0}, {"rounds": 0}, {"every_n_steps": 0}, {"revealed_share": 1.0}]
)
def test_settings_without_a_picture_are_refused(wrong):
    with pytest.raises(ValueError, match=f"set callbacks.pictures.{next(iter(wrong))}"):
        PredictionPictures(**wrong)


def test_the_config_builds_the_callback():
    cfg = OmegaConf.merge({"seed": 7}, {"callbacks": OmegaConf.load(CONFIG)})
    pictures = instantiate(cfg.callbacks.pictures)
    assert isinstance(pictures, PredictionPictures)
    assert (pictures.seed, pictures.every_n_steps) == (7, 500)


def show_on_one_of_two_ranks(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    model, album = tiny_model(), Album(Path(folder))
    module = PredictorModule(model.predictor, model.quantizer)
    fully_shard(module.predictor, mesh=init_device_mesh("cpu", (2,)))
    trainer = SimpleNamespace(
        global_step=5, loggers=[album], datamodule=Noise(), is_global_zero=rank == 0
    )
    PredictionPictures(rounds=2).show(trainer, module)
    torch.save(
        [torch.from_numpy(x) for _, images, _ in album.shown for x in images], f"{folder}/{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.mark.slow
def test_sharded_weights_are_gathered_and_rank_0_shows_what_one_process_would(tmp_path):
    mp.spawn(show_on_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    model, pictures = tiny_model(), PredictionPictures(rounds=2)
    batches = [noise_batch(2, "held-out0"), noise_batch(2, "held-out1")]
    pictures.keys = [key for batch in batches for key in batch["key"]]
    expected = pictures.strips(model, torch.cat([batch["frames"] for batch in batches]))
    shown = torch.load(tmp_path / "0.pt")
    assert len(shown) == 4 and torch.load(tmp_path / "1.pt") == []
    assert all(np.array_equal(a, b) for a, b in zip(expected, shown, strict=True))
