"""Muon takes the steps that torch's own takes, in float32 and all matrices of one shape together."""

import copy

import pytest
import torch
import transformers

from tools.train_demo import architecture
from tools.train_demo.muon import Muon, kernels, orthogonal


def test_steps_are_those_of_torchs_own_but_for_its_bfloat16() -> None:
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((16, 16), (24, 8), (8, 24), (16, 16))]
    begun, theirs = copy.deepcopy(ours), copy.deepcopy(ours)
    optimizers: list[torch.optim.Optimizer] = [
        Muon(ours, lr=0.01, weight_decay=0.1),
        torch.optim.Muon(theirs, lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for one, other, first in zip(ours, theirs, begun, strict=True):
        assert (one - other).norm() < 0.05 * (one - first).norm()


def test_singular_values_come_near_to_one() -> None:
    torch.manual_seed(0)
    for shape in ((3, 32, 32), (2, 8, 40), (2, 40, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        # Jordan's coefficients leave them between 0.7 and 1.2, the smallest ones of square matrices below.
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_what_is_far_from_square_and_of_a_low_rank_is_as_exact() -> None:
    # Over the gram matrix the smallest singular values are squared, and so are soonest lost in float32.
    torch.manual_seed(0)
    matrices = torch.randn(2, 32, 4, dtype=torch.float64) @ torch.randn(2, 4, 96, dtype=torch.float64)
    exact = matrices / matrices.flatten(1).norm(dim=1)[:, None, None]
    a, b, c = 3.4445, -4.7750, 2.0315
    for _ in range(5):
        gram = exact @ exact.mT
        exact = a * exact + (b * gram + c * gram @ gram) @ exact
    assert (orthogonal(matrices.float()) - exact).norm() < 1e-3 * exact.norm()
    assert (orthogonal(matrices.float().mT) - exact.mT).norm() < 1e-3 * exact.norm()


def test_a_kernel_is_a_matrix_of_its_output_channels_and_what_was_not_reached_stays() -> None:
    torch.manual_seed(0)
    kernel, flat, unreached = (torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3), (8, 36), (8, 36)))
    flat.data.copy_(kernel.detach().flatten(1))
    before = unreached.detach().clone()
    optimizer: torch.optim.Optimizer = Muon([kernel, flat, unreached], lr=0.01, weight_decay=0.1)
    kernel.grad = torch.randn_like(kernel)
    flat.grad = kernel.grad.flatten(1)
    optimizer.step()
    torch.testing.assert_close(kernel.flatten(1), flat)
    assert not torch.equal(flat, before)
    assert torch.equal(unreached, before)


@pytest.mark.parametrize(
    ("network", "ends"),
    [
        (architecture.unet(refiner=False), {"conv_in", "conv_out"}),
        (architecture.image_vae(), {"conv_in", "conv_out"}),
        (architecture.video_vae(), {"conv_in", "conv_out"}),
        (transformers.CLIPTextModel(architecture.clip(50, 48, 2)), {"token_embedding", "position_embedding"}),
        (transformers.UMT5EncoderModel(architecture.t5(50)), {"shared", "relative_attention_bias"}),
    ],
    ids=["unet", "image_vae", "video_vae", "clip", "t5"],
)
def test_kernels_are_all_matrices_but_those_at_a_networks_ends(network: torch.nn.Module, ends: set[str]) -> None:
    stepped = {id(weight) for weight in kernels(network)}
    for name, weight in network.named_parameters():
        at_an_end = not ends.isdisjoint(name.split("."))
        vector = weight.ndim == 1 or weight.shape[1:].numel() == 1
        assert (id(weight) in stepped) == (not at_an_end and not vector), name
