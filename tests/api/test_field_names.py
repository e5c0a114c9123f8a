"""The field that a wrong name most likely means; `test_request.py` has whole messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.api.field_names import meant, meant_choice
from worker.api.request import REQUESTS
from worker.core.types import Scheduler

FIELDS: dict[str, tuple[str, ...]] = {task: tuple(model.model_fields) for task, model in REQUESTS.items()}
MEANT = {
    "image_url": "image init_image init_images input_image input_reference source_image imageUrl imageURL image-url",
    "mask_url": "mask mask_image mask_source maskUrl",
    "mask_blur": "mask_feather feather maskBlur mask_blur_x",
    "inpaint_area": "inpaint_full_res inpaintArea",
    "outpaint": "left up outPaint",
    "image_size": "size resolution",
    "num_inference_steps": "steps num_steps sampling_steps numInferenceSteps num_inference_step",
    "guidance_scale": "cfg cfg_scale guidance guidanceScale guidence_scale cfgScale",
    "scheduler": "sampler sampler_name schedular",
    "num_images": "n samples batch_size num_outputs numImages num_image",
    "negative_prompt": "neg_prompt n_prompt negativePrompt negativ_prompt",
    "strength": "denoising_strength prompt_strength strenght",
    "output_format": "format outputFormat",
    "output_quality": "quality jpeg_quality output_compression",
    "loras": "lora lora_url lora_scale replicate_weights",
    "ip_adapters": "reference_image image_prompt ip_adapter_scale",
    "user_id": "uid userId",
    "width": "widht w",
    "height": "hieght",
    "prompt": "promt prompts text",
    "use_cloud_storage": "useCloudStorage",
}
VIDEO = {
    "video_width": "width w videoWidth",
    "video_height": "height",
    "resolution": "size image_size",
    "video_guidance_scale": "cfg_scale guidance guidance_scale",
    "num_frames": "frames length frame_num numFrames",
    "duration": "seconds duration_seconds",
    "fps": "frame_rate",
    "flow_shift": "shift flowShift",
}
NOTHING = """
    num_videos webhook status bucket zzz safety_checker clip_skip eta model_url output a _
    guidance_scale_2 \u00e9
"""


@pytest.mark.parametrize(("name", "field"), [(name, field) for field, names in MEANT.items() for name in names.split()])
def test_what_others_call_a_field_leads_to_ours(name: str, field: str) -> None:
    assert meant(name, "inpaint", FIELDS) == (field, ())


@pytest.mark.parametrize(("name", "field"), [(name, field) for field, names in VIDEO.items() for name in names.split()])
def test_of_two_fields_that_are_called_so_the_tasks_own_is_meant(name: str, field: str) -> None:
    assert meant(name, "text2video", FIELDS) == (field, ())


@pytest.mark.parametrize("name", NOTHING.split())
@pytest.mark.parametrize("task", FIELDS)
def test_a_name_that_may_mean_anything_means_nothing(name: str, task: str) -> None:
    assert meant(name, task, FIELDS) == (None, ())


@pytest.mark.parametrize(
    ("name", "field"),
    [
        *(("image", "image_url"), ("imagUrl", "image_url"), ("mask", "mask_url"), ("numFrames", "num_frames")),
        *(("video_heigth", "video_height"), ("input_reference", "image_url"), ("left", "outpaint")),
    ],
)
def test_where_only_other_tasks_have_the_field_they_are_named(name: str, field: str) -> None:
    owners = tuple(task for task, names in FIELDS.items() if field in names)
    assert meant(name, "text2img", FIELDS) == (field, owners)


@given(name=st.text(max_size=60), task=st.sampled_from(list(FIELDS)))
def test_whatever_the_name_what_it_leads_to_is_a_field(name: str, task: str) -> None:
    field, owners = meant(name, task, FIELDS)
    assert field is None or all(field in FIELDS[other] for other in owners or (task,))
    assert not (owners and task in owners)


@pytest.mark.parametrize(
    ("got", "choice"),
    [
        *(
            ("txt2img", "text2img"),
            ("text-to-image", "text2img"),
            ("T2V", "text2video"),
            ("image_to_video", "img2video"),
        ),
        *(("image-to-image", "img2img"), ("inpainting", "inpaint"), ("Text2Img", "text2img"), ("img2vid", "img2video")),
        *(("upscaling", "upscale"), ("super-resolution", "upscale"), ("Real-ESRGAN", "upscale")),
        *(("video", None), ("enlarge", None), ("", None)),
    ],
)
def test_a_task_by_another_name_leads_to_ours(got: str, choice: str | None) -> None:
    assert meant_choice(got, tuple(REQUESTS)) == choice


@pytest.mark.parametrize(
    ("got", "choice"),
    [
        *(("Euler a", "K_EULER_ANCESTRAL"), ("euler_ancestral", "K_EULER_ANCESTRAL"), ("Euler", "K_EULER")),
        *(("DPM++ 2M Karras", "DPMSolverMultistepKarras"), ("dpmpp_2m", "DPMSolverMultistep"), ("LMS", "KLMS")),
        *(("EulerDiscreteScheduler", "K_EULER"), ("DPM++ 2M SDE Karras", "DPMSolverSDEMultistepKarras")),
        *(("ddim", "DDIM"), ("uni_pc", "UniPC"), ("Heun", "HEUN"), ("DEIS", None), ("DPM adaptive", None)),
    ],
)
def test_a_sampler_as_others_call_it_leads_to_its_scheduler(got: str, choice: str | None) -> None:
    """A1111, ComfyUI and diffusers have their own names for the same."""
    assert meant_choice(got, tuple(Scheduler)) == choice
