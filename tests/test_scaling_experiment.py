"""experiment=scaling through the door: runs end in cards, go on after a stop, are not doubled."""

import json
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from lras.checkpoint import load
from studies.card import CARD, Card
from studies.run import check_processes
from tests.distributed_runs import ROOT
from tests.tiny_model import states_equal

# 12 steps of each of two stages: batch 8, 9 and 16 patches, three tokens a patch.
TINY = (
    "experiment=scaling",
    "scaling.tokens=8000",
    "model=d64x3",
    "seed=0",
    "quantizer_steps=4",
    "model.quantizer.cfg.num_codes=32",
    "model.predictor.cfg.num_codes=32",
    "data.textures=20",
    "data.stages.0.batch=8",
    "data.stages.0.share=0.4",
    "data.stages.0.scene.size=12",
    "data.stages.1.batch=8",
    "data.stages.1.share=0.6",
    "data.stages.1.scene.size=16",
    "data.stages.1.scene.max_motion_px=4.0",
    "callbacks.probe.times=2",
    "callbacks.probe.tracer.num_masks=1",
    "callbacks.probe.sets.easy.num_pairs=2",
    "callbacks.probe.sets.far=null",
    "callbacks.checkpoint.every_n_train_steps=6",
    "study.loss_batches=1",
    "study.loss_batch=8",
    "study.tracer.num_masks=1",
    "study.sets.easy.num_pairs=4",
    "study.sets.far=null",
)


def study(runs: Path, *words: str, mode: tuple[str, ...] = ("-m",)) -> subprocess.Popen:
    """A study of tiny runs below ``runs``, started; the last of two values of a key counts."""
    last = {word.partition("=")[0]: word for word in (*TINY, *words)}
    env = os.environ | {"OMP_NUM_THREADS": "1", "LRAS_RUNS": str(runs)}
    command = [sys.executable, "train.py", *mode, *last.values()]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=env, **pipes)


def ended(process: subprocess.Popen) -> str:
    """What a study said until it ended well."""
    said = heard(process)
    assert process.returncode == 0, said
    return said


def heard(process: subprocess.Popen) -> str:
    """What a study said until it ended; one that does not is ended here."""
    try:
        return process.communicate(timeout=280)[0]
    finally:
        process.kill()


def cards(runs: Path) -> dict[str, Card]:
    found = sorted((runs / "scaling").glob(f"*/{CARD}"))
    return {path.parent.name: Card.read(path) for path in found}


def goes(run: Path) -> list[int]:
    """The steps at which a process began to train this run."""
    return [part["from_step"] for part in json.loads((run / "record.json").read_text())]


@pytest.mark.slow
def test_a_study_trains_every_run_on_its_seeds_quantizer_and_does_nothing_twice(tmp_path):
    said = ended(study(tmp_path, "model=d64x3,d96x3"))
    found = cards(tmp_path)
    assert list(found) == ["d64x3-8e3tokens-seed0", "d96x3-8e3tokens-seed0"]
    small, large = found.values()
    # 27 and 48 tokens a pair, 8 pairs: 3,200 / 216 = 14.8 and 4,800 / 384 = 12.5 steps.
    assert small.steps == large.steps == 15 + 12 and small.tokens == 15 * 216 + 12 * 384
    assert small.parameters.blocks < large.parameters.blocks and small.flops < large.flops
    assert [point.step for point in small.curve] == [0, 13, 26, 27]
    assert small.curve[-1].tokens == small.tokens and small.curve[-1].flops == small.flops
    assert small.sets["easy"].zero_epe_px == large.sets["easy"].zero_epe_px > 3.5
    exports = [tmp_path / "scaling" / name / "export" for name in found]
    assert len({load(export).quantizer.fingerprint() for export in exports}) == 1
    assert said.count("quantizer after 4 steps") == 1
    for name in found:
        checkpoints = tmp_path / "scaling" / name / "checkpoints"
        assert len(list(checkpoints.glob("step_*.ckpt"))) == 1

    # Given again: the finished run is left as it is, the one without its card gets the same one.
    lost = tmp_path / "scaling" / "d96x3-8e3tokens-seed0"
    (lost / CARD).unlink()
    before = (lost.parent / "d64x3-8e3tokens-seed0" / CARD).stat().st_mtime_ns
    said = ended(study(tmp_path, "model=d64x3,d96x3"))
    assert (lost.parent / "d64x3-8e3tokens-seed0" / CARD).stat().st_mtime_ns == before
    assert Card.read(lost / CARD) == large
    assert "d64x3-8e3tokens-seed0 is finished" in said and "there is nothing to do" in said

    # Moved elsewhere it is the same study; with other scenes it is not.
    tmp_path = tmp_path.rename(tmp_path.with_name("moved"))
    assert "d64x3-8e3tokens-seed0 is finished" in ended(study(tmp_path))
    other = study(tmp_path, "data.stages.0.scene.roughest=1.0")
    assert "trained with another config" in heard(other) and other.returncode == 1
    assert len(cards(tmp_path)) == 2


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_weights_of_an_undisturbed_one(tmp_path):
    told = {"_target_": "tests.interruptions.SignalAt", "step": 8, "rank": 0, "name": "SIGUSR2"}
    stop = [f"+callbacks.signal.{name}={value}" for name, value in told.items()]
    stopped = study(tmp_path, *stop)
    said = heard(stopped)
    run = tmp_path / "scaling" / "d64x3-8e3tokens-seed0"
    assert stopped.returncode == 75 and not (run / CARD).exists(), said
    ended(study(tmp_path))
    ended(study(tmp_path / "undisturbed"))
    assert goes(run) == [0, 8]
    (card,), (other,) = cards(tmp_path).values(), cards(tmp_path / "undisturbed").values()
    assert (card.steps, card.loss_nats, card.sets) == (other.steps, other.loss_nats, other.sets)
    twin = tmp_path / "undisturbed" / "scaling" / run.name
    assert states_equal(load(run / "export").predictor, load(twin / "export").predictor)


@pytest.mark.slow
def test_two_processes_at_once_train_every_run_once_and_one_quantizer(tmp_path):
    words = ("model=d64x3,d96x3", "scaling.tokens=8000,9000")
    one = study(tmp_path, *words)
    time.sleep(1)
    other = study(tmp_path, *words)
    said = [ended(one), ended(other)]
    found = cards(tmp_path)
    assert len(found) == 4
    assert all(goes(tmp_path / "scaling" / name) == [0] for name in found)
    assert sum(text.count("quantizer after 4 steps") for text in said) == 1
    trained = [text.count("run written to") for text in said]
    assert sum(trained) == 4 and min(trained) > 0
    assert len(list((tmp_path / "scaling" / "quantizers").iterdir())) == 1
    assert not list((tmp_path / "scaling" / ".claims").iterdir())


@pytest.mark.slow
def test_equal_flops_give_a_larger_model_fewer_tokens(tmp_path):
    words = ("scaling.tokens=null", "scaling.flops=1.5e10", "model=d64x3,d96x3")
    ended(study(tmp_path, *words, mode=()))  # the experiment says itself that it is a sweep
    small, large = cards(tmp_path).values()
    assert small.tokens > 1.5 * large.tokens
    assert small.flops == pytest.approx(1.5e10, rel=0.05) == large.flops


@pytest.mark.slow
def test_one_run_may_take_several_processes(tmp_path):
    words = ("hydra.mode=RUN", "trainer=ddp_cpu", "trainer.devices=2")
    ended(study(tmp_path, *words, mode=()))
    (card,) = cards(tmp_path).values()
    assert card.steps == 27 and card.tokens == 15 * 216 + 12 * 384
    assert goes(tmp_path / "scaling" / "d64x3-8e3tokens-seed0") == [0]


@pytest.mark.slow
def test_jobs_of_a_launcher_run_side_by_side_on_one_quantizer(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    ended(study(tmp_path, "hydra/launcher=local", "model=d64x3,d96x3"))
    assert len(cards(tmp_path)) == 2
    assert len(list((tmp_path / "scaling" / "quantizers").iterdir())) == 1


@pytest.mark.slow
def test_a_study_that_cannot_be_is_told_in_a_sentence_and_leaves_no_run(tmp_path):
    process = study(tmp_path, "scaling.flops=1e12")
    told = heard(process)
    assert process.returncode == 1 and "expected exactly one positive budget" in told
    assert "Traceback" not in told and not list((tmp_path / "scaling").glob("d64x3*"))


@pytest.mark.parametrize(
    "words, own, refused",
    [
        (["trainer=ddp_cpu"], {}, True),
        (["trainer=ddp_cpu", "trainer.devices=1"], {}, False),
        (["trainer=ddp_cpu", "hydra.mode=RUN"], {}, False),
        (["trainer=ddp_cpu"], {"RANK": "0"}, False),  # of torchrun
        (["trainer=ddp_cpu"], {"SLURM_PROCID": "0"}, False),
    ],
)
def test_a_sweep_may_not_start_processes_of_its_own_for_a_run(words, own, refused, monkeypatch):
    for name in ("RANK", "SLURM_PROCID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        cfg = compose("train", ["experiment=scaling", *words], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    expected = pytest.raises(ValueError, match="one run a command") if refused else nullcontext()
    with expected:
        check_processes(cfg)
