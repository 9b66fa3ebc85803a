"""Clip shards to token shards: ``python -m data.tokenize clips=DIR out=DIR encoder=RUN``.

``clips`` is what ``data.ingest`` wrote, ``encoder`` a run folder, an export or a checkpoint of
ours, or anything else that encodes: ``encoder._target_=package.Class encoder.argument=value``.
Every clip shard becomes one token shard of the same samples: KEY.json with the encoder's
fingerprint, and KEY.codes.npy, uint16 (clip_frames, rows, cols), the code of every cell. The index
carries the fingerprint too, so that the codes are never read with another encoder. What is said of
tasks, restarts and bytes in ``data.ingest`` holds here as well.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from rich.console import Console

from data.command_line import parse
from data.encoders import MAX_CODES, load_encoder
from data.engines import EngineConfig, run_job
from data.index import INDEX_NAME, read_index
from data.tasks import SPLITS
from data.tokenize_job import TokenizeJob
from data.video import printable

USAGE = "python -m data.tokenize clips=DIR out=DIR encoder=RUN"


@dataclass(kw_only=True)
class TokenizeConfig(EngineConfig):
    """What ``data.tokenize`` takes on its command line as key=value."""

    clips: str = MISSING  # folder that data.ingest wrote
    out: str = MISSING  # folder to make, or one that the same command began
    encoder: Any = MISSING  # run folder, export, checkpoint; or {_target_: package.Class, ...}
    device: str = "cpu"  # cpu or cuda; with several GPUs workers take turns
    batch_clips: int = 8  # clips encoded at once

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_clips < 1 or torch.device(self.device).type not in ("cpu", "cuda"):
            raise ValueError(
                f"got batch_clips={self.batch_clips} device={self.device}; batch_clips is 1 or "
                f"more, device is cpu or cuda."
            )
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"got device={self.device}, but no GPU is there; pass device=cpu.")
        if self.workers is None and self.device.startswith("cuda"):
            self.workers = torch.cuda.device_count()


def tokenize(cfg: TokenizeConfig, console: Console | None = None) -> dict[str, Any]:
    """Write the token shards, or what of them is missing; the contents of tokenize.json.

    Raises:
        ValueError: ``cfg.clips`` holds no clips, ``cfg.out`` something else, the encoder has more
            than 65,536 codes or does not fit the clips, or a clip is corrupt.
        RuntimeError: workers failed; the same command goes on.
    """
    return run_job(make_job(cfg), cfg, console)


def make_job(cfg: TokenizeConfig) -> TokenizeJob:
    """The job, with an encoder that was tried on one frame."""
    clips = Path(cfg.clips).absolute()
    found = {s: read_index(clips / s) for s in SPLITS if (clips / s / INDEX_NAME).is_file()}
    if not found:
        raise ValueError(
            f"clips={printable(clips)} holds no train/{INDEX_NAME}; pass what data.ingest wrote."
        )
    for split, index in found.items():
        if index.kind != "clips":
            raise ValueError(
                f"{printable(clips / split)} holds {index.kind}, not clips; pass what data.ingest "
                f"wrote."
            )
    encoder = load_encoder(cfg.encoder)
    size = next(iter(found.values())).size
    codes = encoder.encode(torch.zeros(1, 3, size, size))
    num_codes = encoder.num_codes
    if num_codes is not None and num_codes > MAX_CODES:
        raise ValueError(
            f"the encoder has {num_codes} codes, but token shards hold uint16; expected "
            f"{MAX_CODES} at most: take an encoder with fewer."
        )
    return TokenizeJob(
        settings={
            "fingerprint": encoder.fingerprint(),
            "num_codes": num_codes,
            "rows": codes.shape[1],
            "cols": codes.shape[2],
            "clips": {split: index.identity for split, index in found.items()},
            "batch_clips": cfg.batch_clips,
        },
        out=Path(cfg.out).absolute(),
        clips=clips,
        shards=tuple((split, n) for split, i in found.items() for n in range(len(i.shards))),
        inputs=tuple(f"{split}/{s.name}" for split, i in found.items() for s in i.shards),
        encoder=cfg.encoder,
        device=cfg.device,
    )


def main(arguments: list[str]) -> int:
    """Run the command; exit status 1 when there is no whole set of shards at the end of it."""
    console, start = Console(stderr=True), time.monotonic()
    try:
        cfg = parse(TokenizeConfig, arguments, USAGE)
        result = tokenize(cfg, console)
    except (ValueError, OSError, RuntimeError) as error:
        console.print(f"tokenize: {error}", style="red", markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("tokenize: stopped; the same command goes on where it stopped", markup=False)
        return 130
    made, about = result["clips"], result["plan"]["settings"]
    console.print(
        f"{made.get('train', 0)} training and {made.get('val', 0)} validation clips as codes of "
        f"encoder {about['fingerprint']} ({about['rows']}x{about['cols']} cells) are in "
        f"{printable(cfg.out)}; {time.monotonic() - start:.0f} s",
        markup=False,
        soft_wrap=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
