"""`python -m tools.train_demo`: make the demo models, from nothing to the files that are shipped.

Knows the order of the stages and how long each is trained; knows nothing of how.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

# Before torch is imported. Operations are so small that two threads which sleep between them are no faster than one.
os.environ.setdefault("OMP_WAIT_POLICY", "ACTIVE")


def main() -> None:
    """Train what is asked for; what `--work` already holds is not trained again."""
    parser = argparse.ArgumentParser(prog="python -m tools.train_demo", description="Train the demo models.")
    parser.add_argument("--out", type=Path, default=Path("worker/demo_models"), help="where the models are written")
    parser.add_argument("--work", type=Path, default=Path("outputs/train_demo"), help="where a run keeps its progress")
    parser.add_argument("--threads", type=int, default=2, help="threads in all, at least one a stage (%(default)s)")
    parser.add_argument("--device", help="where to train, as cuda (default: a GPU where there is one)")
    parser.add_argument(
        "--further", action="store_true", help="train the denoisers that --out holds further, at a lower rate"
    )
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help=f"which of {', '.join(_STAGES)}, one after the other (default: all, two beside each other)",
    )
    # One of a whole run's lanes, which leaves it to the run to complete the folders: two at once would meet there.
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = [stage for stage in options.stages if stage not in _STAGES]
    if unknown:
        parser.error(f"no such stage: {', '.join(unknown)}")
    if options.stages:
        _train(options)
    else:
        from tools.train_demo.layout import HALVES, complete

        begun = time.monotonic()
        for lanes in _COURSE:
            _side_by_side(options, lanes)
            for half in HALVES:
                complete(options.out, half)
        print(f"all: {(time.monotonic() - begun) / 60:.1f} min", flush=True)


def _train(options: argparse.Namespace) -> None:
    import torch

    from tools.train_demo import device
    from tools.train_demo.layout import complete

    torch.set_num_threads(options.threads)
    device.use(options.device)
    options.work.mkdir(parents=True, exist_ok=True)
    for stage in options.stages:
        begun = time.monotonic()
        _STAGES[stage](options)
        if not options.lane:
            complete(options.out, stage.partition("_")[0])
        print(f"{stage}: {(time.monotonic() - begun) / 60:.1f} min", flush=True)


def _side_by_side(options: argparse.Namespace, lanes: Sequence[Sequence[str]]) -> None:
    """Train each lane's stages in a process of its own; exits where one of them fails, or when told to stop.

    When a lane ends, those that are left begin again where they were, with its threads.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    left_out = _KEPT_FURTHER if options.further else ()
    lanes = [lane for lane in ([stage for stage in lane if stage not in left_out] for lane in lanes) if lane]
    command = [sys.executable, "-m", "tools.train_demo", "--lane", "--out", str(options.out)]
    command += ["--work", str(options.work)] + ["--further"] * options.further
    command += ["--device", options.device] if options.device else []
    while lanes:
        threads = str(max(1, options.threads // len(lanes)))
        running: list[subprocess.Popen[bytes]] = []
        try:
            running.extend(subprocess.Popen([*command, "--threads", threads, *stages]) for stages in lanes)
            codes: list[int | None] = [None]
            while all(code is None for code in codes):
                time.sleep(0.2)
                codes = [process.poll() for process in running]
            if any(codes):
                sys.exit(1)
        finally:
            for process in running:
                process.terminate()
                process.wait()
        lanes = [lane for lane, code in zip(lanes, codes, strict=True) if code is None]


def _image_text(o: argparse.Namespace) -> None:
    from tools.train_demo.texts import clip_encoders

    clip_encoders(o.out / "sdxl", o.work, steps=2000)


def _image_encoder(o: argparse.Namespace) -> None:
    from tools.train_demo.encoders import image_encoder

    image_encoder(o.out / "sdxl" / "vae", o.work, steps=600)


def _image_unet(o: argparse.Namespace) -> None:
    from tools.train_demo.images import base

    base(o.out / "sdxl", o.work, steps=5000 if o.further else 9000, further=o.further)


def _image_sizes(o: argparse.Namespace) -> None:
    from tools.train_demo.images import sizes

    sizes(o.out / "sdxl", o.work, steps=2000)


def _image_refiner(o: argparse.Namespace) -> None:
    from tools.train_demo.images import refiner

    refiner(o.out / "sdxl", o.out / "sdxl-refiner", o.work, steps=1000)


def _image_decoder(o: argparse.Namespace) -> None:
    from tools.train_demo.decoders import image_decoder

    image_decoder(o.out / "sdxl", o.work, steps=2500)


def _video_text(o: argparse.Namespace) -> None:
    from tools.train_demo.texts import t5_encoder

    t5_encoder(o.out / "wan", o.work, steps=1500)


def _video_encoder(o: argparse.Namespace) -> None:
    from tools.train_demo.encoders import video_encoder

    video_encoder(o.out / "wan" / "vae", o.work, steps=1000)


def _video_transformer(o: argparse.Namespace) -> None:
    from tools.train_demo.transformer import transformer

    transformer(o.out / "wan", o.work, steps=3600 if o.further else 8000, further=o.further)


def _video_motion(o: argparse.Namespace) -> None:
    from tools.train_demo.transformer import motion

    motion(o.out / "wan", o.work, steps=6000)


def _video_turning(o: argparse.Namespace) -> None:
    from tools.train_demo.transformer import turning

    turning(o.out / "wan", o.work, steps=3000)


def _video_decoder(o: argparse.Namespace) -> None:
    from tools.train_demo.decoders import video_decoder

    video_decoder(o.out / "wan", o.work, steps=5000)


_STAGES: dict[str, Callable[[argparse.Namespace], None]] = {
    "image_text": _image_text,
    "image_encoder": _image_encoder,
    "image_unet": _image_unet,
    "image_sizes": _image_sizes,
    "image_refiner": _image_refiner,
    "image_decoder": _image_decoder,
    "video_text": _video_text,
    "video_encoder": _video_encoder,
    "video_transformer": _video_transformer,
    "video_motion": _video_motion,
    "video_turning": _video_turning,
    "video_decoder": _video_decoder,
}

_COURSE = (
    (
        ("image_text", "image_encoder", "image_unet", "image_refiner", "image_decoder", "image_sizes"),
        ("video_text", "video_encoder", "video_transformer", "video_motion", "video_turning"),
    ),
    (("video_decoder",),),
)
"""The whole run: lanes of stages that are trained beside each other, with a thread each until one is left, and then the
last stage; what is left goes on with all threads.
"""
_KEPT_FURTHER = ("image_text", "image_encoder", "video_text", "video_encoder")
"""Stages that `--further` leaves as they are unless they are named."""

if __name__ == "__main__":
    main()
