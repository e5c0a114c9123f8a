"""Writes a checkpoint from the published folders as a single file with the original layout's names."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def single_file(sdxl: Path, path: Path) -> Path:
    """Write the checkpoint in `sdxl` (diffusers' folders) as one file with the original implementation's names.

    The inverse of diffusers' own conversion, for a UNet of two levels with one layer a block.
    """
    tensors: dict[str, torch.Tensor] = {}
    tensors |= _original_unet(load_file(sdxl / "unet" / "diffusion_pytorch_model.safetensors"))
    tensors |= _original_vae(load_file(sdxl / "vae" / "diffusion_pytorch_model.safetensors"))
    for name, value in load_file(sdxl / "text_encoder" / "model.safetensors").items():
        # Since 5.6, transformers saves this encoder without the "text_model." of its older files.
        tensors[f"conditioner.embedders.0.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    tensors |= _open_clip(load_file(sdxl / "text_encoder_2" / "model.safetensors"))
    save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    return path


_UNET_PLACES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    # Per level, one residual layer, and then (on the first level) the downsampler, is one input block each.
    "down_blocks.0.resnets.0": "input_blocks.1.0",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "down_blocks.1.resnets.0": "input_blocks.3.0",
    "down_blocks.1.attentions.0": "input_blocks.3.1",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "up_blocks.0.resnets.0": "output_blocks.0.0",
    "up_blocks.0.attentions.0": "output_blocks.0.1",
    "up_blocks.0.resnets.1": "output_blocks.1.0",
    "up_blocks.0.attentions.1": "output_blocks.1.1",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.2.conv",
    "up_blocks.1.resnets.0": "output_blocks.2.0",
    "up_blocks.1.resnets.1": "output_blocks.3.0",
}
_RESNET_PARTS = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def _original_unet(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    renamed = {}
    for name, value in state.items():
        place = max((place for place in _UNET_PLACES if name.startswith(place + ".")), key=len)
        rest = name.removeprefix(place + ".")
        part = rest.rpartition(".")[0]
        if part in _RESNET_PARTS and "resnets" in place:
            rest = rest.replace(part, _RESNET_PARTS[part])
        renamed[f"model.diffusion_model.{_UNET_PLACES[place]}.{rest}"] = value
    return renamed


def _original_vae(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    levels = 4
    renamed = {}
    for name, value in state.items():
        new = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        for level in range(levels):
            new = new.replace(f"down_blocks.{level}.resnets.", f"down.{level}.block.")
            new = new.replace(f"down_blocks.{level}.downsamplers.0", f"down.{level}.downsample")
            new = new.replace(f"up_blocks.{level}.resnets.", f"up.{levels - 1 - level}.block.")
            new = new.replace(f"up_blocks.{level}.upsamplers.0", f"up.{levels - 1 - level}.upsample")
        new = new.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        if "mid_block.attentions.0" in new:
            new = new.replace("mid_block.attentions.0", "mid.attn_1")
            for ours, theirs in {
                "to_q": "q",
                "to_k": "k",
                "to_v": "v",
                "to_out.0": "proj_out",
                "group_norm": "norm",
            }.items():
                new = new.replace(f".{ours}.", f".{theirs}.")
        # The original has 1 x 1 convolutions where this attention has linear layers.
        is_linear = "mid.attn_1" in new and value.ndim == 2
        renamed[f"first_stage_model.{new}"] = value[:, :, None, None] if is_linear else value
    return renamed


def _open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = "conditioner.embedders.1.model."
    renamed = {
        prefix + "positional_embedding": state["text_model.embeddings.position_embedding.weight"],
        prefix + "token_embedding.weight": state["text_model.embeddings.token_embedding.weight"],
        prefix + "ln_final.weight": state["text_model.final_layer_norm.weight"],
        prefix + "ln_final.bias": state["text_model.final_layer_norm.bias"],
        prefix + "text_projection": state["text_projection.weight"].T,
    }
    parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layers = {int(name.split(".")[3]) for name in state if name.startswith("text_model.encoder.layers.")}
    for layer in layers:
        ours, theirs = f"text_model.encoder.layers.{layer}.", f"{prefix}transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            projections = [state[f"{ours}self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
            renamed[f"{theirs}attn.in_proj_{kind}"] = torch.cat(projections)
            renamed[f"{theirs}attn.out_proj.{kind}"] = state[f"{ours}self_attn.out_proj.{kind}"]
            renamed |= {f"{theirs}{new}.{kind}": state[f"{ours}{old}.{kind}"] for old, new in parts.items()}
    return renamed
