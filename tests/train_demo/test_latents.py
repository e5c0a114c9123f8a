"""What the latents hold is known: pixels of one colour are that colour, and every frame of a clip has its own."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.train_demo import architecture, latents
from tools.train_demo.scenes import COLOURS, cover, draw_lots, paint


def test_a_picture_of_one_colour_has_that_colour_in_every_latent_and_no_outline() -> None:
    colour = torch.tensor([0.5, -0.25, 1.0])
    known = latents.of_pictures(colour[None, :, None, None].expand(1, 3, 32, 48))
    assert known.shape == (1, architecture.LATENT_CHANNELS, 4, 6)
    torch.testing.assert_close(known[0, :3], latents.SCALE * colour[:, None, None].expand(3, 4, 6))
    assert (known[0, 3] == known[0, 3, 0, 0]).all()


def test_an_outline_stands_out_in_the_fourth_channel_whatever_its_colours() -> None:
    for channel in range(3):
        pixels = torch.zeros(1, 3, 16, 16)
        pixels[:, channel, :, 12:] = 0.5
        edges = latents.of_pictures(pixels)[0, 3]
        assert (edges[:, 1] > edges[:, 0] + 0.1).all()


def test_a_latent_of_a_clip_has_its_four_frames_and_the_first_one_frame_four_times() -> None:
    shades = torch.linspace(-1, 1, 9)
    pixels = shades[None, None, :, None, None].expand(1, 3, 9, 16, 24)
    known = latents.of_clips(pixels)
    assert known.shape == (1, architecture.VIDEO_LATENT_CHANNELS, 3, 2, 3)
    for latent, frames in enumerate(([0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8])):
        expected = latents.CLIPS_SCALE * shades[frames].repeat(3)  # red's four, green's, blue's
        torch.testing.assert_close(known[0, :, latent, 0, 0], expected)


def test_covers_with_colours_come_to_the_latents_of_the_coloured_clips() -> None:
    scenes = [draw_lots(random.Random(seed), moving=True) for seed in range(6)]
    pixels = paint(scenes, 112, 192, 9).transpose(1, 2)
    colours = [[COLOURS[scene.colour], COLOURS[scene.background]] for scene in scenes]
    ink, ground = (torch.tensor(colours) / 255 * 2 - 1).unbind(1)
    known = latents.coloured(latents.of_clips(cover(pixels)), ink, ground)
    torch.testing.assert_close(known, latents.of_clips(pixels * 2 - 1))


def test_the_autoencoders_say_latents_of_these_scales() -> None:
    assert architecture.image_vae().config.scaling_factor == latents.SCALE
    video = architecture.video_vae().config
    assert video.latents_std == [1 / latents.CLIPS_SCALE] * architecture.VIDEO_LATENT_CHANNELS
    assert video.latents_mean == [0.0] * architecture.VIDEO_LATENT_CHANNELS


@pytest.mark.parametrize(
    ("vae", "scale"),
    [(architecture.image_vae, latents.SCALE), (architecture.video_vae, latents.CLIPS_SCALE)],
    ids=["image", "video"],
)
def test_an_autoencoder_of_other_latents_is_not_trained_further(vae: Any, scale: float, tmp_path: Path) -> None:
    vae().save_config(tmp_path)
    latents.require(tmp_path, scale)
    with pytest.raises(ValueError, match="train all from nothing"):
        latents.require(tmp_path, 2 * scale)
