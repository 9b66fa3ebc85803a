"""The DataModule in a plain Trainer."""

import pytest
import torch
from fake_datasets import write_clip_shards
from lightning import LightningModule, Trainer

from data.datamodule import ClipDataModule


class Collector(LightningModule):
    """Keeps what it is fed; one weight, so that there is something to optimize."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches, self.val_keys = [], []

    def training_step(self, batch, batch_idx):
        self.batches.append(batch)
        return self.weight * batch["gap"].float().mean()

    def validation_step(self, batch, batch_idx):
        self.val_keys += batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    write_clip_shards(folder / "train", num_clips=9)
    write_clip_shards(folder / "val", num_clips=5)
    return folder


def trainer(tmp_path, **options):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    return Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=tmp_path,
        enable_model_summary=False,
        **quiet,
        **options,
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_fit_and_validate_in_a_plain_trainer(root, tmp_path, workers):
    data = ClipDataModule(root, batch_size=2, num_workers=workers, crop_px=6)
    model = Collector()
    options = {"max_epochs": 2, "limit_train_batches": 4, "num_sanity_val_steps": 0}
    trainer(tmp_path, **options).fit(model, datamodule=data)
    batch = model.batches[0]
    assert set(batch) == {"frames", "gap", "key"}
    assert batch["frames"].shape == (2, 2, 3, 6, 6) and batch["frames"].dtype == torch.uint8
    assert batch["gap"].shape == (2,) and batch["gap"].dtype == torch.int64
    assert len(batch["key"]) == 2 and isinstance(batch["key"][0], str)
    epochs = [[batch["key"] for batch in model.batches[i : i + 4]] for i in (0, 4)]
    assert len(model.batches) == 8 and epochs[0] != epochs[1]
    assert sorted(model.val_keys) == sorted(2 * [f"clip{n:03d}" for n in range(5)])


def test_validate_alone(root, tmp_path):
    model = Collector()
    trainer(tmp_path).validate(model, datamodule=ClipDataModule(root), verbose=False)
    assert model.val_keys == [f"clip{n:03d}" for n in range(5)]


def test_a_root_without_shards_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*train"):
        ClipDataModule(tmp_path).train_dataloader()


def test_a_resumed_run_must_draw_as_many_samples_a_step():
    four = ClipDataModule("somewhere", batch_size=4)
    ClipDataModule("elsewhere", batch_size=4).load_state_dict(four.state_dict())
    with pytest.raises(ValueError, match=r"drew 4 samples a step.*with data\.batch_size=4"):
        ClipDataModule("somewhere", batch_size=8).load_state_dict(four.state_dict())
