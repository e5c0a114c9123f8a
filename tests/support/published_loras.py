"""Layouts of published LoRAs by trainer: names of tensors and their shapes, as facts; no torch.

Names are quoted from the given threads or from the code that writes them; shapes are those of the layers in the
published models at the given rank. A few layers of each stand for all: the others repeat in every block.
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Published:
    """One layout. `refused` is part of the error message where it cannot be used."""

    trainer: str
    source: str
    shapes: Shapes
    family: str = ""
    rank: int = 0
    refused: str = ""


def _kohya(*layers: tuple[str, int, int], rank: int, kernel: int = 0) -> dict[str, tuple[int, ...]]:
    """Return what kohya's sd-scripts write for layers given as name, inputs, outputs."""
    square, point = ((kernel, kernel), (1, 1)) if kernel else ((), ())
    found: dict[str, tuple[int, ...]] = {}
    for name, inputs, outputs in layers:
        found[f"{name}.lora_down.weight"] = (rank, inputs, *square)
        found[f"{name}.lora_up.weight"] = (outputs, rank, *point)
        found[f"{name}.alpha"] = ()
    return found


def _pairs(layers: Mapping[str, tuple[int, int]], down: str, up: str, *, rank: int) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in layers.items():
        found[f"{name}{down}"], found[f"{name}{up}"] = (rank, inputs), (outputs, rank)
    return found


_SGM = "lora_unet_input_blocks_4_1_transformer_blocks_0"
_OLD = "unet.down_blocks.1.attentions.1.transformer_blocks.1"
_WAN_BLOCK = {
    "self_attn.q": (5120, 5120),
    "self_attn.o": (5120, 5120),
    "cross_attn.k": (5120, 5120),
    "cross_attn.v": (5120, 5120),
    "ffn.0": (5120, 13824),
    "ffn.2": (13824, 5120),
}

PUBLISHED: tuple[Published, ...] = (
    Published(
        "kohya sd-scripts, SDXL with both text encoders",
        "https://github.com/Comfy-Org/ComfyUI/issues/5655",
        _kohya(
            (f"{_SGM}_attn1_to_k", 640, 640),
            (f"{_SGM}_attn2_to_k", 2048, 640),
            (f"{_SGM}_attn2_to_out_0", 640, 640),
            (f"{_SGM}_ff_net_0_proj", 640, 5120),
            ("lora_unet_input_blocks_4_1_proj_in", 640, 640),
            ("lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q", 1280, 1280),
            ("lora_unet_output_blocks_5_1_transformer_blocks_1_ff_net_2", 2560, 640),
            ("lora_te1_text_model_encoder_layers_0_self_attn_q_proj", 768, 768),
            ("lora_te1_text_model_encoder_layers_11_mlp_fc1", 768, 3072),
            ("lora_te2_text_model_encoder_layers_31_mlp_fc2", 5120, 1280),
            rank=32,
        ),
        family="sdxl",
        rank=32,
    ),
    Published(
        "kohya sd-scripts, convolutions (LoCon)",
        "https://github.com/Comfy-Org/ComfyUI/issues/3060",
        _kohya((f"{_SGM}_attn1_to_v", 640, 640), ("lora_unet_input_blocks_5_0_emb_layers_1", 1280, 640), rank=16)
        | _kohya(
            ("lora_unet_input_blocks_4_0_in_layers_2", 320, 640),
            ("lora_unet_output_blocks_8_0_out_layers_3", 320, 320),
            ("lora_unet_input_blocks_3_0_op", 320, 320),
            ("lora_unet_output_blocks_2_2_conv", 1280, 1280),
            ("lora_unet_output_blocks_5_2_conv", 640, 640),
            rank=16,
            kernel=3,
        )
        | _kohya(("lora_unet_input_blocks_4_0_skip_connection", 320, 640), rank=16, kernel=1),
        family="sdxl",
        rank=16,
    ),
    Published(
        "LyCORIS, DoRA",
        "https://github.com/Comfy-Org/ComfyUI/issues/3060",
        _kohya((f"{_SGM}_attn2_to_q", 640, 640), ("lora_unet_input_blocks_5_0_emb_layers_1", 1280, 640), rank=8)
        | {
            f"{_SGM}_attn2_to_q.dora_scale": (640, 1),
            "lora_unet_input_blocks_5_0_emb_layers_1.dora_scale": (640, 1),
        },
        family="sdxl",
        rank=8,
    ),
    Published(
        "LCM-LoRA and others, diffusers' names in kohya's way",
        "https://github.com/luosiallen/latent-consistency-model/issues/109",
        _kohya(
            ("lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_v", 2048, 640),
            ("lora_unet_up_blocks_1_attentions_2_transformer_blocks_0_ff_net_2", 2560, 640),
            ("lora_unet_mid_block_resnets_0_time_emb_proj", 1280, 1280),
            rank=64,
        )
        | _kohya(
            ("lora_unet_down_blocks_1_downsamplers_0_conv", 640, 640),
            ("lora_unet_down_blocks_2_resnets_1_conv1", 1280, 1280),
            ("lora_unet_conv_in", 4, 320),
            rank=64,
            kernel=3,
        ),
        family="sdxl",
        rank=64,
    ),
    Published(
        "diffusers before 0.22",
        "https://github.com/LucianoCirino/efficiency-nodes-comfyui/issues/104",
        _pairs(
            {
                f"{_OLD}.attn1.processor.to_q": (640, 640),
                f"{_OLD}.attn2.processor.to_k": (2048, 640),
                f"{_OLD}.attn2.processor.to_out": (640, 640),
            },
            "_lora.down.weight",
            "_lora.up.weight",
            rank=4,
        )
        | _pairs(
            {"text_encoder.text_model.encoder.layers.3.self_attn.to_out": (768, 768)},
            "_lora.down.weight",
            "_lora.up.weight",
            rank=4,
        )
        | _pairs(
            {"text_encoder_2.text_model.encoder.layers.3.self_attn.q_proj": (1280, 1280)},
            ".lora_linear_layer.down.weight",
            ".lora_linear_layer.up.weight",
            rank=4,
        ),
        family="sdxl",
        rank=4,
    ),
    Published(
        "diffusers' training scripts, SimpleTuner",
        "https://github.com/Comfy-Org/ComfyUI/issues/12452",
        _pairs(
            {
                "unet.down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_k": (2048, 1280),
                "unet.up_blocks.0.attentions.2.transformer_blocks.0.attn1.to_out.0": (1280, 1280),
                "text_encoder_2.text_model.encoder.layers.0.self_attn.v_proj": (1280, 1280),
            },
            ".lora_A.weight",
            ".lora_B.weight",
            rank=128,
        ),
        family="sdxl",
        rank=128,
    ),
    Published(
        "PEFT's save_pretrained",
        "https://github.com/huggingface/diffusers/issues/6382",
        _pairs(
            {"base_model.model.down_blocks.1.attentions.1.transformer_blocks.0.attn1.to_out.0": (640, 640)},
            ".lora_A.weight",
            ".lora_B.weight",
            rank=64,
        ),
        family="sdxl",
        rank=64,
    ),
    Published(
        "diffusion-pipe, ai-toolkit: Wan 14B",
        "https://github.com/tdrussell/diffusion-pipe/issues/114",
        _pairs(
            {f"diffusion_model.blocks.34.{name}": size for name, size in _WAN_BLOCK.items()},
            ".lora_A.weight",
            ".lora_B.weight",
            rank=32,
        ),
        family="wan",
        rank=32,
    ),
    Published(
        "lightx2v's step distillation: Wan 14B, image to video",
        "https://github.com/kijai/ComfyUI-WanVideoWrapper/issues/940",
        _pairs(
            {f"diffusion_model.blocks.17.{name}": size for name, size in _WAN_BLOCK.items()}
            | {"diffusion_model.blocks.17.cross_attn.v_img": (5120, 5120)},
            ".lora_down.weight",
            ".lora_up.weight",
            rank=64,
        )
        | {
            "diffusion_model.blocks.17.cross_attn.v_img.diff_b": (5120,),
            "diffusion_model.blocks.17.cross_attn.norm_k_img.diff": (5120,),
            "diffusion_model.blocks.17.self_attn.q.diff_b": (5120,),
            "diffusion_model.blocks.17.diff_m": (1, 6, 5120),
            "diffusion_model.blocks.17.norm3.diff_b": (5120,),
        },
        family="wan",
        rank=64,
    ),
    Published(
        "musubi-tuner: Wan 14B",
        "https://github.com/kohya-ss/musubi-tuner/issues/206",
        _kohya(
            *((f"lora_unet_blocks_14_{name.replace('.', '_')}", *size) for name, size in _WAN_BLOCK.items()), rank=16
        ),
        family="wan",
        rank=16,
    ),
    Published(
        "DiffSynth-Studio: Wan 1.3B",
        "https://github.com/modelscope/DiffSynth-Studio/pull/421",
        _pairs(
            {"blocks.0.self_attn.q": (1536, 1536), "blocks.29.ffn.2": (8960, 1536)},
            ".lora_A.default.weight",
            ".lora_B.default.weight",
            rank=16,
        ),
        family="wan",
        rank=16,
    ),
    Published(
        "diffusers: Wan 14B",
        "https://github.com/huggingface/diffusers/pull/12040",
        _pairs(
            {
                "transformer.blocks.29.attn2.add_v_proj": (5120, 5120),
                "transformer.blocks.0.attn1.to_out.0": (5120, 5120),
                "transformer.blocks.0.ffn.net.0.proj": (5120, 13824),
            },
            ".lora_A.weight",
            ".lora_B.weight",
            rank=128,
        ),
        family="wan",
        rank=128,
    ),
    Published(
        "kohya sd-scripts: Stable Diffusion 1",
        "https://github.com/hako-mikan/sd-webui-lora-block-weight/issues/97",
        _kohya(
            ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k", 768, 320),
            ("lora_te_text_model_encoder_layers_0_mlp_fc1", 768, 3072),
            rank=32,
        ),
        refused="is made for Stable Diffusion 1; this takes one for SDXL",
    ),
    Published(
        "LyCORIS, LoHa",
        "https://github.com/huggingface/diffusers/issues/3087",
        {
            f"lora_unet_down_blocks_1_attentions_1_transformer_blocks_0_attn1_to_q.{name}": shape
            for name, shape in {
                "alpha": (),
                "hada_w1_a": (640, 8),
                "hada_w1_b": (8, 640),
                "hada_w2_a": (640, 8),
                "hada_w2_b": (8, 640),
            }.items()
        },
        family="sdxl",
        rank=8,
    ),
    Published(
        "LyCORIS, LoKr of SimpleTuner",
        "https://github.com/Comfy-Org/ComfyUI/issues/5417",
        {
            "lycoris_transformer_blocks_3_attn2_to_q.alpha": (),
            "lycoris_transformer_blocks_3_attn2_to_q.lokr_w1": (16, 16),
            "lycoris_transformer_blocks_3_attn2_to_q.lokr_w2": (96, 96),
        },
        refused="is made for Stable Diffusion 3, Flux or LTX-Video",
    ),
    Published(
        "LyCORIS, LoKr of SimpleTuner: Wan 1.3B",
        "https://github.com/Comfy-Org/ComfyUI/issues/5417",
        {
            "lycoris_blocks_3_attn2_to_q.alpha": (),
            "lycoris_blocks_3_attn2_to_q.lokr_w1": (16, 16),
            "lycoris_blocks_3_attn2_to_q.lokr_w2": (96, 96),
        },
        family="wan",
    ),
    Published(
        "LyCORIS, LoKr: SDXL with its convolutions",
        "https://github.com/KohakuBlueleaf/LyCORIS/blob/main/lycoris/modules/lokr.py",
        {
            f"{_SGM}_attn2_to_k.alpha": (),
            f"{_SGM}_attn2_to_k.lokr_w1": (20, 32),
            f"{_SGM}_attn2_to_k.lokr_w2_a": (32, 4),
            f"{_SGM}_attn2_to_k.lokr_w2_b": (4, 64),
            "lora_unet_input_blocks_4_0_in_layers_2.alpha": (),
            "lora_unet_input_blocks_4_0_in_layers_2.lokr_w1": (20, 16),
            "lora_unet_input_blocks_4_0_in_layers_2.lokr_t2": (4, 4, 3, 3),
            "lora_unet_input_blocks_4_0_in_layers_2.lokr_w2_a": (4, 32),
            "lora_unet_input_blocks_4_0_in_layers_2.lokr_w2_b": (4, 20),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": (),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w1": (48, 24),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lokr_w2": (64, 32),
        },
        family="sdxl",
        rank=4,
    ),
    Published(
        "LyCORIS, IA3",
        "https://github.com/Comfy-Org/ComfyUI/issues/6397",
        {
            "lora_unet_up_blocks_2_attentions_2_transformer_blocks_0_attn1_to_v.on_input": (),
            "lora_unet_up_blocks_2_attentions_2_transformer_blocks_0_attn1_to_v.weight": (640,),
        },
        refused="is IA3, which is not read",
    ),
    Published(
        "ai-toolkit, diffusers: Flux",
        "https://github.com/huggingface/diffusers/pull/9915",
        _pairs(
            {
                "transformer.transformer_blocks.5.attn.add_q_proj": (3072, 3072),
                "transformer.single_transformer_blocks.5.attn.to_q": (3072, 3072),
            },
            ".lora_A.weight",
            ".lora_B.weight",
            rank=16,
        ),
        refused="is made for Flux; this takes one for SDXL or Wan",
    ),
    Published(
        "HunyuanVideo's step distillation",
        "https://github.com/kijai/ComfyUI-HunyuanVideoWrapper/issues/468",
        _pairs(
            {"diffusion_model.double_blocks.2.img_attn.proj": (3072, 3072)},
            ".lora_down.weight",
            ".lora_up.weight",
            rank=64,
        )
        | {"diffusion_model.double_blocks.2.img_attn.proj.diff_b": (3072,)},
        refused="is made for Flux or HunyuanVideo",
    ),
    Published(
        "Wan VACE",
        "https://github.com/deepbeepmeep/Wan2GP/issues/1089",
        _pairs({"blocks.0.vace.cross_attn.k": (1536, 1536)}, ".lora_A.weight", ".lora_B.weight", rank=16),
        refused="is made for a model that is not known here",
    ),
)


def header_only(path: Path, shapes: Shapes, *, dtype: str = "F16", metadata: Mapping[str, str] | None = None) -> Path:
    """Write a .safetensors file with these tensors, all zeros; it is sparse where the file system allows."""
    at, entries = 0, {}
    size = {"F16": 2, "BF16": 2, "F32": 4, "I64": 8, "F64": 8}[dtype]
    for name, shape in shapes.items():
        end = at + size * math.prod(shape)
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    content = json.dumps(({"__metadata__": dict(metadata)} if metadata else {}) | entries).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        file.truncate(8 + len(content) + at)
    return path
