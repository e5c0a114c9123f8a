"""Every stage of the training runs, one after the other, and what they write is loaded and draws."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.train_demo import __main__ as command
from tools.train_demo import clips, decoders, encoders, images, texts, trainer, transformer
from tools.train_demo.studio import Studio


def test_all_stages_from_nothing_make_models_that_the_worker_loads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = tmp_path / "models"
    train(out, tmp_path / "work", ["video_text", "image_text", "image_encoder", "video_encoder"], monkeypatch)
    train(out, tmp_path / "work", ["image_unet", "image_refiner", "image_decoder", "image_sizes"], monkeypatch)
    train(out, tmp_path / "work", ["video_transformer", "video_motion", "video_turning", "video_decoder"], monkeypatch)
    done = {path.stem for path in (tmp_path / "work").glob("*.done")}
    assert done >= set(command._STAGES) - {"image_text", "video_text"}, "these have names of their own"

    studio = Studio(out)
    (image,) = studio.run("text2img", "a red star on blue", num_inference_steps=2, high_noise_frac=0.5)
    assert image.shape == (256, 256, 3)
    (clip,) = studio.run("text2video", "a red star on blue", num_inference_steps=2, num_frames=5)
    assert clip.shape == (5, 112, 192, 3)


def train(out: Path, work: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, with stages of one step and few scenes at hand."""

    def briefly(name: str, model: torch.nn.Module, loss_of: Any, **options: Any) -> None:
        trainer.fit(name, model, loss_of, **options | {"steps": 1})

    buckets = tuple(dataclasses.replace(bucket, kept=4) for bucket in clips.BUCKETS)
    forms = zip(buckets, decoders._RedrawnClips._FORMS, strict=False)
    with monkeypatch.context() as patch:
        for module in (decoders, encoders, images, texts, transformer):
            patch.setattr(module, "fit", briefly)
        patch.setattr(images, "_NATIVE_ALONE", 0.0)
        patch.setattr(clips, "BUCKETS", buckets)
        patch.setattr(transformer, "BUCKETS", buckets)
        patch.setattr(decoders._RedrawnClips, "_FORMS", tuple((bucket, *form[1:]) for bucket, form in forms))
        threads = str(torch.get_num_threads())
        patch.setattr(
            sys,
            "argv",
            ["train_demo", "--device", "cpu", "--threads", threads, "--out", str(out), "--work", str(work), *stages],
        )
        command.main()
