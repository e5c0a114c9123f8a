"""Latents to pixels and back, with VAEs that overflow."""

from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.support.engine_jobs import picture
from worker.core.errors import Internal
from worker.engine import vae as pixels
from worker.engine.models.hub import DEMO_MODELS

_KIT: Any = diffusers
CPU = torch.device("cpu")


def vae_of(*, dtype: torch.dtype = torch.float32, gain: float = 1.0, **config: Any) -> Any:
    """Return a small VAE; `gain` scales its decoder's output."""
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
    """Wraps a VAE whose decode returns what a half-precision overflow gives, unless it is in float32."""

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


def _wan_vae() -> Any:
    return _KIT.AutoencoderKLWan.from_pretrained(DEMO_MODELS / "wan" / "vae").eval()


def test_a_clip_decoded_in_bfloat16_looks_the_same_and_its_encoder_stays_exact() -> None:
    """On latents from the VAE itself, the peak signal-to-noise ratio is above 40 dB; 8 bits alone have 59."""
    vae = _wan_vae()
    frames = np.stack([np.asarray(drawn(64, 64, shift)) for shift in range(5)])
    encoded = pixels.encode_clip(vae, frames, CPU)
    exact = pixels.decode_clip(vae, encoded)
    for part in (vae.decoder, vae.post_quant_conv):
        part.to(torch.bfloat16)
    assert torch.equal(pixels.encode_clip(vae, frames, CPU), encoded)
    error = np.mean((pixels.decode_clip(vae, encoded).astype(np.float32) - exact) ** 2)
    assert 10 * np.log10(255**2 / error) > 40
    assert pixels.decoder_dtype(vae) == torch.bfloat16


def test_latents_are_rounded_once_on_their_way_into_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = _wan_vae()
    given: list[torch.Tensor] = []
    for part in (vae.decoder, vae.post_quant_conv):
        part.to(torch.bfloat16)

    def decode(latents: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        given.append(latents)
        return (torch.rand(1, 3, 1, 8, 8),)

    monkeypatch.setattr(vae, "decode", decode)
    noise = torch.randn(1, vae.config.z_dim, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels.decode_clip(vae, noise)
    mean, deviation = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    exact = noise.double() * deviation + mean
    (seen,) = given
    assert seen.dtype == torch.bfloat16
    assert ((seen.double() - exact).abs() <= 1.01 * 2**-8 * exact.abs()).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_what_is_decoded_is_rounded_once(dtype: torch.dtype) -> None:
    values = torch.linspace(-1.1, 1.1, 8193).to(dtype)
    exact = values.double().mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    assert torch.equal(pixels._quantised(values), exact)


def test_a_decoder_that_overflows_is_itself_again_after_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = _wan_vae()
    for part in (vae.decoder, vae.post_quant_conv):
        part.to(torch.bfloat16)
    decode, seen = vae.decode, []

    def overflowing(latents: torch.Tensor, return_dict: bool = True) -> Any:
        seen.append(latents.dtype)
        (video,) = decode(latents, return_dict=return_dict)
        return (video if latents.dtype == torch.float32 else torch.full_like(video, float("nan")),)

    monkeypatch.setattr(vae, "decode", overflowing)
    pixels.decode_clip(vae, torch.randn(1, vae.config.z_dim, 1, 4, 4))
    assert seen == [torch.bfloat16, torch.float32]
    assert {part: next(getattr(vae, part).parameters()).dtype for part in ("encoder", "decoder")} == {
        "encoder": torch.float32,
        "decoder": torch.bfloat16,
    }


def test_an_image_that_has_no_room_is_decoded_in_tiles_smaller_than_itself() -> None:
    """With SDXL's VAE as published, a tile is as large as a picture of native size."""
    vae = vae_of(sample_size=1024)
    called: list[tuple[int, ...]] = []
    vae.decoder.register_forward_pre_hook(lambda _, given: called.append(tuple(given[0].shape[-2:])))
    wide = torch.randn(1, 4, 300, 300)
    with pixels.in_tiles(vae, tiles=True):
        assert pixels.decode_image(vae, wide).shape == (600, 600, 3)
    assert max(max(size) for size in called) == 256
    called.clear()
    pixels.decode_image(vae, wide)
    assert called == [(300, 300)]


def drawn(width: int, height: int, shift: int) -> Any:
    image = Image.new("RGB", (width, height), (40, 90, 160))
    ImageDraw.Draw(image).ellipse((10 + shift, 12, 40 + shift, 44), fill=(220, 60, 50))
    return image
