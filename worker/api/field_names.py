"""Suggests the field that an unknown name most likely means: another service's name, another spelling, a typo.

Knows names only. Suggests nothing rather than something misleading.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

_CLOSE = 0.84
"""difflib's ratio from which one name counts as a typo of another."""
_CALLED = {
    "prompt": "text positive_prompt positive caption input_prompt text_prompt text_prompts",
    "negative_prompt": "neg_prompt n_prompt negative uncond",
    "task_type": "task mode type",
    "prompt_weighting": "weighting prompt_weights weighted_prompt",
    "style": "styles style_preset style_name preset image_style",
    "model": "model_name model_id checkpoint sd_model_checkpoint ckpt_name",
    "seed": "noise_seed random_seed manual_seed",
    "num_inference_steps": "steps num_steps n_steps sampling_steps sample_steps inference_steps ddim_steps",
    "preview": "previews show_preview live_preview live_previews enable_preview preview_image",
    "user_id": "uid user firebase_uid",
    "file_uid": "file_id file_name generation_id",
    "id_token": "token auth_token firebase_token",
    "width": "w image_width video_width",
    "height": "h image_height video_height",
    "image_size": "size img_size dimensions resolution",
    "aspect_ratio": "aspect ratio image_aspect_ratio video_aspect_ratio",
    "num_images": "n samples batch_size batch_count num_outputs num_samples n_iter image_count num_images_per_prompt",
    "guidance_scale": "guidance cfg cfg_scale text_guidance_scale sample_guide_scale video_guidance_scale",
    "scheduler": "sampler sampler_name sampler_index sampling_method scheduler_name",
    "output_format": "format image_format file_format",
    "output_quality": "quality jpeg_quality webp_quality image_quality compression_quality output_compression",
    "upscale_factor": "upscale scale_factor hr_scale upscale_by upscaling_resize upscale_ratio outscale enable_hr",
    "upscale_creativity": "creativity hr_denoising_strength upscale_strength",
    "loras": "lora lora_weights lora_url lora_urls lora_path lora_paths lora_name lora_list extra_lora lora_scale "
    "lora_scales lora_strength replicate_weights",
    "controlnets": "controlnet control_net control_nets control_image control_image_url controlnet_image "
    "controlnet_image_url controlnet_units canny_image_url depth_image_url openpose_image_url",
    "ip_adapters": "ip_adapter ipadapter ip_adapter_image ip_adapter_image_url ip_adapter_scale image_prompt "
    "image_prompts reference_image reference_image_url "
    "reference_images reference_image_urls style_image style_image_url subject_image subject_image_url",
    "refiner_inference_steps": "refiner_steps refine_steps",
    "image_url": "image img images image_urls image_uri image_base64 init_image init_images init_image_url input_image "
    "input_images input_image_url input_reference source_image source_image_url start_image start_image_url "
    "starter_image first_frame first_frame_url first_frame_image first_frame_image_url",
    "end_image_url": "end_image last_image last_image_url last_frame last_frame_url last_frame_image tail_image "
    "tail_image_url end_frame end_frame_url image_end",
    "mask_url": "mask mask_image mask_image_url mask_uri mask_base64 mask_source inpaint_mask",
    "mask_blur": "blur feather mask_feather mask_feathering mask_softness",
    "inpaint_area": "inpaint_full_res inpaint_only_masked only_masked",
    "outpaint": "left right up down expand extend",
    "strength": "denoise denoise_strength denoising_strength prompt_strength image_strength",
    "video_width": "w width",
    "video_height": "h height",
    "resolution": "size image_size video_size video_resolution",
    "duration": "seconds duration_seconds length_seconds video_duration video_length_seconds",
    "num_frames": "frames length frame_num frame_count n_frames total_frames video_length num_video_frames",
    "fps": "frame_rate framerate frames_per_second video_fps",
    "video_guidance_scale": "guidance guidance_scale cfg cfg_scale text_guidance_scale sample_guide_scale",
    "video_quality": "quality output_quality crf video_bitrate bitrate",
    "high_noise_loras": "high_noise_lora loras_high lora_high_noise",
    "low_noise_loras": "low_noise_lora loras_low lora_low_noise",
    "flow_shift": "shift sample_shift sampling_shift",
}
"""Our fields -> their names in other services and pipelines."""
_CHOSEN = {
    "text2img": "t2i txttoimg txt2img txt2pic",
    "img2img": "i2i imgtoimg",
    "inpaint": "inpainting outpaint outpainting imginpainting",
    "upscale": "upscaling upscaler superresolution esrgan realesrgan",
    "text2video": "t2v txttovideo txt2vid txttovid",
    "img2video": "i2v imgtovideo img2vid imgtovid",
    "DDIM": "ddimscheduler",
    "PNDM": "plms pndmscheduler",
    "KLMS": "lms lmsdiscretescheduler",
    "K_EULER": "euler eulerdiscretescheduler",
    "K_EULER_ANCESTRAL": "eulera eulerancestral keulera eulerancestraldiscretescheduler",
    "DPMSolverMultistep": "dpmpp2m kdpmpp2m dpmsolverpp dpmsolvermultistepscheduler",
    "DPMSolverSinglestep": "dpmpp2s dpmsolversinglestepscheduler",
    "DPMSolverMultistepKarras": "dpmpp2mkarras",
    "DPMSolverSDEMultistepKarras": "dpmpp2msdekarras dpmpp2msde",
    "HEUN": "kheun heundiscretescheduler",
    "UniPC": "unipcmultistepscheduler",
    "LCM": "lcmscheduler",
    "TCD": "tcdscheduler",
}
"""Our choices -> their names elsewhere, as letters and digits only."""


def meant(name: str, task: str, fields: Mapping[str, Sequence[str]]) -> tuple[str | None, tuple[str, ...]]:
    """Return the field that `name` most likely means, and the tasks that have it if `task` does not.

    Args:
        name: the client's name, of any length; not a field of `task`.
        task: the task of the request.
        fields: the fields of each task.
    """
    spelt = _snake(name[:40])
    candidates = (spelt, *(field for field, names in _CALLED.items() if spelt in names.split()))
    for candidate in candidates:
        if candidate in fields[task]:
            return candidate, ()
    for candidate in candidates:
        if owners := tuple(other for other, names in fields.items() if candidate in names):
            return candidate, owners
    if likeliest := _likeliest(spelt, fields[task]):
        return likeliest, ()
    if likeliest := _likeliest(spelt, dict.fromkeys(itertools.chain.from_iterable(fields.values()))):
        return likeliest, tuple(other for other, names in fields.items() if likeliest in names)
    return None, ()


def _likeliest(name: str, fields: Iterable[str]) -> str | None:
    """Return the field of which `name` is a typo, or None."""
    # A trailing digit makes it a different name.
    likeness, field = max((_likeness(name, field), field) for field in fields)
    return field if likeness >= _CLOSE and not name[-1:].isdigit() else None


def _snake(name: str) -> str:
    """Convert `imageUrl`, `imageURL`, `Image-Url` or `image url` to snake case."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[\s.-]+", "_", name.strip()).lower()


def _likeness(name: str, field: str) -> float:
    # In a short name two swapped letters are a third of it.
    return 1.0 if sorted(name) == sorted(field) else difflib.SequenceMatcher(None, name, field).ratio()


def meant_choice(got: str, choices: Sequence[str]) -> str | None:
    """Return the one of `choices` that `got` means by another name, spelling or typo, or None."""
    plain = {_letters(choice): choice for choice in choices}
    spelt = _letters(got[:40])
    if (ours := next((ours for ours, names in _CHOSEN.items() if spelt in names.split()), "")) in choices:
        return ours
    found = difflib.get_close_matches(spelt, plain, 1, cutoff=_CLOSE)
    return plain[found[0]] if found else None


def _letters(text: str) -> str:
    """Reduce `DPM++ 2M Karras`, `dpmpp_2m_karras` and `DPMPP2MKarras` to one name."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("++", "pp").replace("image", "img").replace("text", "txt"))
