"""Latents to pixels and back, with VAEs that overflow."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from tests.support.engine_jobs import picture
from worker.core.errors import Internal
from worker.engine import vae as pixels

_KIT: Any = diffusers
CPU = torch.device("cpu")


def vae_of(*, dtype: torch.dtype = torch.float32, gain: float = 1.0, **config: Any) -> Any:
    """A small VAE; `gain` scales what leaves its decoder."""
    torch.manual_seed(0)
    vae = _KIT.AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.13025,
        **config,
    ).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(gain)
    return vae.to(dtype)


class _Overflowing:
    """Wraps a VAE whose decode gives what a half-precision overflow gives, unless it is in float32."""

    def __init__(self, vae: Any, broken: float, *, even_in_float32: bool = False) -> None:
        self._vae = vae
        self._broken = broken
        self._always = even_in_float32
        self.dtypes: list[torch.dtype] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._vae, name)

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> tuple[torch.Tensor]:
        self.dtypes.append(self._vae.dtype)
        (image,) = self._vae.decode(latents, return_dict=return_dict)
        broken = self._always or self._vae.dtype != torch.float32
        return (torch.full_like(image, self._broken) if broken else image,)


def latents(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)


def test_the_bytes_are_those_of_diffusers_own_path() -> None:
    vae = vae_of(gain=20)
    ours = pixels.decode_image(vae, latents())
    with torch.no_grad():
        image = vae.decode(latents() / 0.13025).sample
    theirs = _KIT.image_processor.VaeImageProcessor().postprocess(image, output_type="pil")[0]
    assert np.array_equal(ours, np.asarray(theirs))
    assert ours.std() > 5


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -1.0], ids=["nan", "infinite", "black"])
def test_what_half_precision_ruins_is_decoded_again_in_float32(broken: float) -> None:
    vae = _Overflowing(vae_of(dtype=torch.bfloat16), broken)
    image = pixels.decode_image(vae, latents(torch.bfloat16))
    assert vae.dtypes == [torch.bfloat16, torch.float32]
    assert vae.dtype == torch.bfloat16
    assert image.std() > 0


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -1.0], ids=["nan", "infinite", "black"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_picture_that_is_none_fails_clearly_and_the_vae_is_as_before(broken: float, dtype: torch.dtype) -> None:
    vae = _Overflowing(vae_of(dtype=dtype), broken, even_in_float32=True)
    with pytest.raises(Internal, match="no usable picture"):
        pixels.decode_image(vae, latents(dtype))
    assert vae.dtype == dtype
    assert len(vae.dtypes) == (1 if dtype == torch.float32 else 2)


def test_latents_that_are_not_finite_are_not_decoded() -> None:
    vae = _Overflowing(vae_of(), 0.0)
    with pytest.raises(Internal, match="no usable picture"):
        pixels.decode_image(vae, latents() * float("nan"))
    assert vae.dtypes == []


def test_a_vae_with_weights_that_are_not_finite_fails_clearly() -> None:
    vae = vae_of()
    with torch.no_grad():
        vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(Internal, match="no usable picture"):
        pixels.decode_image(vae, latents())


@pytest.mark.parametrize("statistics", [{}, {"latents_mean": [0.5] * 4, "latents_std": [2.0] * 4}])
def test_encoding_is_the_inverse_of_what_decoding_expects(statistics: dict[str, Any]) -> None:
    vae = vae_of(**statistics)
    image = picture(32, 32)
    encoded = pixels.encode_image(vae, image, CPU)
    with torch.no_grad():
        raw = torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1)[None] / 127.5 - 1
        mode = vae.encode(raw).latent_dist.mode()
    assert torch.allclose(pixels._destandardised(vae, encoded), mode, atol=1e-5)
    assert torch.equal(encoded, pixels.encode_image(vae, image, CPU))


def test_a_clip_is_decoded_frame_by_frame_alike() -> None:
    torch.manual_seed(0)
    vae = _KIT.AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()
    given = torch.randn(1, 16, 4, 4, 4)
    frames = pixels.decode_clip(vae, given)
    assert frames.shape == (13, 32, 32, 3)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    deviation = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    with torch.no_grad():
        video = vae.decode(given / (1.0 / deviation) + mean).sample
    theirs = _KIT.video_processor.VideoProcessor().postprocess_video(video, output_type="pil")[0]
    assert np.array_equal(frames, np.stack([np.asarray(frame) for frame in theirs]))
