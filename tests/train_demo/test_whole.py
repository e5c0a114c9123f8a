"""Training takes whole clips at once and has to come to what the worker's own pass, four frames at a time, comes to."""

import pytest
import torch

from tools.train_demo import architecture
from tools.train_demo.transformer import heed_words
from tools.train_demo.whole import WholeClips


@pytest.mark.parametrize("frames", [1, 5, 17])
def test_a_clip_at_once_is_the_clip_frame_by_frame(frames: int) -> None:
    torch.manual_seed(0)
    vae = architecture.video_vae().eval()
    pixels = torch.rand(2, 3, frames, 32, 48) * 2 - 1
    with torch.no_grad():
        latents = vae.encode(pixels).latent_dist.mean
        back = vae.decode(latents).sample
        whole = WholeClips(vae)
        torch.testing.assert_close(whole.encode(pixels).mean, latents, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(whole.decode(latents).clamp(-1, 1), back, rtol=1e-3, atol=1e-3)


def test_autoencoders_of_another_build_are_refused() -> None:
    vae = architecture.video_vae()
    vae.register_to_config(patch_size=None)
    with pytest.raises(ValueError, match="patch size 2"):
        WholeClips(vae)


def test_an_untrained_transformer_looks_at_the_words_and_not_at_their_padding() -> None:
    torch.manual_seed(0)
    network = architecture.video_transformer()
    words = torch.zeros(1, 512, architecture.VIDEO_TEXT_WIDTH)
    words[:, :10] = torch.randn(10, architecture.VIDEO_TEXT_WIDTH)
    hidden = torch.randn(1, 20, network.config.num_attention_heads * network.config.attention_head_dim)

    def heeded() -> float:
        attention = network.blocks[0].attn2
        with torch.no_grad():
            source = network.condition_embedder.text_embedder(words)
            query, key = attention.norm_q(attention.to_q(hidden)), attention.norm_k(attention.to_k(source))
            heads = [part.unflatten(2, (attention.heads, -1)).transpose(1, 2) for part in (query, key)]
            share = (heads[0] @ heads[1].transpose(-1, -2) * heads[0].shape[-1] ** -0.5).softmax(-1)
        return float(share[..., :10].sum(-1).mean())

    before = heeded()
    heed_words(network)
    assert before < 0.1
    assert heeded() > 0.8
