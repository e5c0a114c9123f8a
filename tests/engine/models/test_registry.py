"""The weights that serve a task, looked up in folder trees made for the purpose; none are loaded."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.checkpoint_headers import SDXL, put_header
from tests.support.model_folders import fake_sdxl, fake_wan, put, put_ip_adapter, put_weights, registry
from worker.api.request import parse
from worker.core.config import OwnDefaults
from worker.core.errors import InvalidInput, ModelUnavailable
from worker.core.types import TaskType
from worker.engine.models import hub
from worker.engine.models.checkpoint import read_json
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.registry import SDXL_BASE, SDXL_VAE, WAN_T2V


def test_without_a_card_every_task_has_a_demo_model() -> None:
    models = registry(cuda=False)
    for task in tuple(TaskType):
        own = read_json(DEMO_MODELS / ("wan" if task.is_video else "sdxl") / "worker.json")
        defaults = models.describe(task)
        assert defaults.name == "demo"
        assert models.spec(task).preview_factors == tuple(map(tuple, own.pop("preview_factors")))
        assert own.pop("hold_end_image", False) == (defaults.end_image == "optional") or task is TaskType.TEXT2VIDEO
        assert {key: getattr(defaults, key) for key in own} == own | {"warnings": tuple(own["warnings"])}
        assert defaults.size_multiple == (16 if task.endswith("video") else 8)
        assert defaults.has_refiner == (not task.endswith("video"))


def test_a_card_runs_the_demo_models_where_they_are_asked_for() -> None:
    models = registry(cuda=True, sdxl_model="demo", wan_model="demo")
    assert {models.describe(task).name for task in tuple(TaskType)} == {"demo"}
    assert models.spec(TaskType.TEXT2VIDEO) == models.spec(TaskType.IMG2VIDEO)


def test_a_worker_without_its_demo_models_names_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "DEMO_MODELS", tmp_path)
    for task, variable in {"text2img": "SDXL_MODEL", "text2video": "WAN_MODEL"}.items():
        with pytest.raises(ModelUnavailable, match=f"{variable} names the built-in demo model, whose folder is not"):
            registry(cuda=False).describe(TaskType(task))


def test_on_a_card_the_defaults_are_the_real_models() -> None:
    models = registry(cuda=True)
    spec = models.spec(TaskType.TEXT2IMG)
    assert (spec.main.name, spec.refiner) == (SDXL_BASE, None)
    assert spec.vae is not None
    assert (spec.vae.name, spec.vae.optional) == (SDXL_VAE, True)
    image, video = models.describe(TaskType.INPAINT), models.describe(TaskType.TEXT2VIDEO)
    assert (image.name, image.width, image.height, image.num_inference_steps) == (SDXL_BASE, 1024, 1024, 30)
    assert (image.guidance_scale, image.has_refiner, image.warnings) == (5.0, False, ())
    assert (video.name, video.width, video.height, video.num_inference_steps) == (WAN_T2V, 832, 480, 50)
    assert (video.guidance_scale, video.num_frames, video.fps, video.size_multiple) == (5.0, 81, 16, 16)


def test_a_task_without_a_model_says_which_variable_to_set() -> None:
    with pytest.raises(ModelUnavailable, match="set WAN_I2V_MODEL"):
        registry(cuda=True).spec(TaskType.IMG2VIDEO)


def test_a_checkpoint_that_does_both_serves_both_at_its_own_rate(tmp_path: Path) -> None:
    """Wan2.2#13: its layout decides, not its name."""
    folder = fake_wan(tmp_path / "ti2v", in_channels=48, scale=16, expand_timesteps=True)
    models = registry(cuda=True, wan_model=str(folder))
    assert models.spec(TaskType.TEXT2VIDEO) == models.spec(TaskType.IMG2VIDEO)
    defaults = models.describe(TaskType.IMG2VIDEO)
    assert (defaults.name, defaults.width, defaults.height, defaults.size_multiple) == ("ti2v", 1280, 704, 32)
    assert (defaults.fps, models.describe(TaskType.TEXT2VIDEO).fps) == (24, 24)
    twice = registry(cuda=True, wan_model=str(folder), wan_i2v_model=str(folder))
    assert twice.spec(TaskType.TEXT2VIDEO) == twice.spec(TaskType.IMG2VIDEO)


def test_a_ti2v_id_serves_both_before_it_is_here() -> None:
    models = registry(cuda=True, wan_model="Wan-AI/Wan2.2-TI2V-5B-Diffusers")
    assert models.spec(TaskType.IMG2VIDEO).main.variable == "WAN_MODEL"
    assert models.describe(TaskType.TEXT2VIDEO).size_multiple == 32


@pytest.mark.parametrize(
    ("task", "variable", "channels"), [("text2video", "wan_model", 36), ("img2video", "wan_i2v_model", 16)]
)
def test_a_checkpoint_for_the_other_video_task_is_refused(
    tmp_path: Path, task: str, variable: str, channels: int
) -> None:
    values: dict[str, Any] = {variable: str(fake_wan(tmp_path / "wan", in_channels=channels))}
    with pytest.raises(ModelUnavailable, match=f"{variable.upper()} is not a.* checkpoint"):
        registry(cuda=True, **values).spec(TaskType(task))


def test_two_wan_checkpoints_are_two_bundles(tmp_path: Path) -> None:
    t2v, i2v = fake_wan(tmp_path / "a" / "wan"), fake_wan(tmp_path / "b" / "wan", in_channels=36)
    models = registry(cuda=True, wan_model=str(t2v), wan_i2v_model=str(i2v))
    assert models.spec(TaskType.TEXT2VIDEO).name != models.spec(TaskType.IMG2VIDEO).name


def test_a_folder_tells_its_native_size_and_its_own_defaults(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "turbo", sample_size=64)
    models = registry(cuda=True, sdxl_model=str(folder))
    assert (models.describe(TaskType.TEXT2IMG).width, models.describe(TaskType.TEXT2IMG).name) == (512, "turbo")
    put(folder / "worker.json", {"name": "Turbo", "num_inference_steps": 4, "guidance_scale": 0, "height": "tall"})
    defaults = models.describe(TaskType.TEXT2IMG)
    assert (defaults.name, defaults.num_inference_steps, defaults.guidance_scale) == ("Turbo", 4, 0)
    assert (defaults.width, defaults.height) == (512, 512)
    assert defaults.draft_strength is None
    put(folder / "worker.json", {"draft_strength": 0.3})
    assert models.describe(TaskType.TEXT2IMG).draft_strength == 0.3


def test_a_model_of_ones_own_keeps_its_own_vae(tmp_path: Path) -> None:
    folder = fake_sdxl(tmp_path / "mine")
    assert registry(cuda=True, sdxl_model=str(folder)).spec(TaskType.TEXT2IMG).vae is None
    named = registry(cuda=True, sdxl_model=str(folder), sdxl_vae=SDXL_VAE).spec(TaskType.TEXT2IMG).vae
    assert named is not None
    assert not named.optional


def broken(tmp_path: Path) -> dict[str, tuple[dict[str, Any], str]]:
    not_a_model = tmp_path / "empty"
    not_a_model.mkdir()
    other_kind = tmp_path / "sd15"
    put(other_kind / "model_index.json", {"_class_name": "StableDiffusionPipeline"})
    pickles = fake_sdxl(tmp_path / "pickles")
    (pickles / "unet" / "model.safetensors").rename(pickles / "unet" / "model.bin")
    inpainting = fake_sdxl(tmp_path / "inpainting")
    put(inpainting / "unet" / "config.json", {"in_channels": 9})
    text = tmp_path / "text.safetensors"
    text.write_text("these are no weights")
    return {
        "missing folder": ({"sdxl_model": str(tmp_path / "gone")}, "SDXL_MODEL names a folder that is not there"),
        "missing file": ({"sdxl_model": "/gone/a.safetensors"}, "SDXL_MODEL names a file that is not there"),
        "no weights in the file": ({"sdxl_model": str(text)}, "not in the safetensors format"),
        "no model_index.json": ({"sdxl_model": str(not_a_model)}, "not a model in diffusers' layout"),
        "another class": ({"sdxl_model": str(other_kind)}, "another kind of model"),
        "pickled weights": ({"sdxl_model": str(pickles)}, "no .safetensors weights for its unet"),
        "a nine-channel UNet": ({"sdxl_model": str(inpainting)}, "inpainting-only"),
        "no id": ({"sdxl_model": "just words"}, "must be a hub id"),
        "a wrong VAE": ({"sdxl_vae": str(not_a_model)}, "not an SDXL VAE"),
        "a demo refiner beside a real base": ({"sdxl_refiner": "demo"}, "does not go with"),
        "a refiner that is a base": ({"sdxl_refiner": str(fake_sdxl(tmp_path / "base"))}, "another kind of model"),
        "a single file for Wan": ({"wan_model": "/models/wan.safetensors"}, "it does not load from a single file"),
    }


@pytest.mark.parametrize(
    "case",
    [
        "missing folder",
        "missing file",
        "no weights in the file",
        "no model_index.json",
        "another class",
        "pickled weights",
        "a nine-channel UNet",
        "no id",
        "a wrong VAE",
        "a demo refiner beside a real base",
        "a refiner that is a base",
        "a single file for Wan",
    ],
)
def test_a_wrong_variable_is_named_and_no_path_is_told(tmp_path: Path, case: str) -> None:
    values, message = broken(tmp_path)[case]
    task = "text2video" if "wan_model" in values else "text2img"
    with pytest.raises(ModelUnavailable) as caught:
        registry(cuda=True, **values).describe(TaskType(task))
    assert message in str(caught.value)
    assert next(iter(values)).upper() in str(caught.value)
    assert str(tmp_path) not in str(caught.value)
    assert "/gone" not in str(caught.value)


def test_the_demo_takes_after_pictures_by_itself_without_a_card_only() -> None:
    assert registry(cuda=False).describe(TaskType.TEXT2IMG).has_ip_adapter
    for models in (registry(cuda=True), registry(cuda=True, sdxl_model="demo")):
        assert not models.describe(TaskType.TEXT2IMG).has_ip_adapter
        assert models.ip_adapter(models.spec(TaskType.TEXT2IMG).main) is None
    assert registry(cuda=True, sdxl_model="demo", ip_adapter_model="demo").describe(TaskType.INPAINT).has_ip_adapter


def test_an_ip_adapter_is_found_like_a_model(tmp_path: Path) -> None:
    folder = put_ip_adapter(tmp_path / "h94--IP-Adapter")
    places = (hub.Place(tmp_path, "plain"),)
    for value, where in ((str(folder), ()), ("h94/IP-Adapter", places)):
        models = registry(cuda=True, where=where, ip_adapter_model=value)
        found = models.ip_adapter(models.spec(TaskType.TEXT2IMG).main)
        assert found is not None
        assert (found.kind, found.path) == ("folder", folder)
    models = registry(cuda=True, ip_adapter_model="h94/IP-Adapter@abc")
    found = models.ip_adapter(models.spec(TaskType.TEXT2IMG).main)
    assert found is not None
    assert (found.kind, found.hub_id) == ("hub", "h94/IP-Adapter@abc")


def test_a_wrong_ip_adapter_is_named_and_no_path_is_told(tmp_path: Path) -> None:
    narrow = put_ip_adapter(tmp_path / "sd15", context=768)
    small = fake_sdxl(tmp_path / "small")
    put(small / "unet" / "config.json", {"in_channels": 4, "cross_attention_dim": 112})
    (tmp_path / "empty").mkdir()
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ip_adapter_model": "demo"}, "does not go with SDXL_MODEL: only one of them is demo"),
        ({"ip_adapter_model": str(narrow)}, "a model whose prompt is 768 wide, not 2048"),
        ({"ip_adapter_model": str(narrow), "sdxl_model": str(small)}, "a model whose prompt is 768 wide, not 112"),
        ({"ip_adapter_model": str(tmp_path / "empty")}, "names a folder that has no IP-Adapter for SDXL"),
        ({"ip_adapter_model": str(tmp_path / "gone")}, "names a folder that is not there"),
        ({"ip_adapter_model": "/models/ip-adapter.safetensors"}, "must be a hub id or a folder"),
    )
    for values, message in cases:
        models = registry(cuda=True, **values)
        with pytest.raises(ModelUnavailable) as caught:
            models.ip_adapter(models.spec(TaskType.TEXT2IMG).main)
        assert message in str(caught.value)
        assert "IP_ADAPTER_MODEL" in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


WAN_22 = "Wan-AI/Wan2.2-{}-Diffusers"


@pytest.mark.parametrize(
    ("source", "task", "fps", "steps", "guidance", "shift"),
    [
        (WAN_T2V, "text2video", 16, 50, (5.0, None), None),
        ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "img2video", 16, 40, (5.0, None), None),
        (WAN_22.format("TI2V-5B"), "text2video", 24, 50, (5.0, None), 5.0),
        (WAN_22.format("TI2V-5B"), "img2video", 24, 50, (5.0, None), 5.0),
        (WAN_22.format("T2V-A14B"), "text2video", 16, 40, (4.0, 3.0), 12.0),
        (WAN_22.format("I2V-A14B"), "img2video", 16, 40, (3.5, 3.5), 5.0),
    ],
)
def test_each_wan_runs_as_its_authors_run_it(
    source: str, task: str, fps: int, steps: int, guidance: tuple[float, float | None], shift: float | None
) -> None:
    """Wan2.2#13, musubi-tuner#928: TI2V-5B makes 24 frames a second, the others 16; otherwise a clip runs slowly."""
    values: dict[str, Any] = {"wan_model" if "T2V" in source or "TI2V" in source else "wan_i2v_model": source}
    found = registry(cuda=True, **values).describe(TaskType(task))
    assert (found.fps, found.num_inference_steps, found.flow_shift) == (fps, steps, shift)
    assert (found.guidance_scale, found.guidance_scale_2) == guidance
    assert found.negative_prompt.startswith("色调艳丽\N{FULLWIDTH COMMA}")
    assert len(found.negative_prompt.split("\N{FULLWIDTH COMMA}")) == 28


def test_two_experts_are_told_by_their_folder(tmp_path: Path) -> None:
    folder = fake_wan(tmp_path / "wan", transformer_2=["diffusers", "X"])
    put_weights(folder / "transformer_2" / "model.safetensors")
    assert registry(cuda=True, wan_model=str(folder)).describe(TaskType.TEXT2VIDEO).flow_shift == 12.0


def test_a_few_step_model_is_told_by_its_name_and_corrected_by_the_operator(tmp_path: Path) -> None:
    source = "someone/sdxl-lightning-4step"
    found = registry(cuda=True, sdxl_model=source).describe(TaskType.TEXT2IMG)
    assert (found.num_inference_steps, found.guidance_scale, found.few_steps) == (4, 0.0, True)
    said = {source: OwnDefaults(num_inference_steps=8, timestep_spacing="trailing", prediction_type="v_prediction")}
    models = registry(cuda=True, sdxl_model=source, model_defaults=said)
    found = models.describe(TaskType.TEXT2IMG)
    assert (found.num_inference_steps, found.timestep_spacing, found.prediction_type) == (8, "trailing", "v_prediction")
    assert dict(models.spec(TaskType.TEXT2IMG).scheduler) == {
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
    }


def test_a_snapshot_in_a_hubs_cache_is_called_what_it_is_on_the_hub(tmp_path: Path) -> None:
    """Its folder is named after a commit, which does not identify the model, nor tell that it takes few steps."""
    folder = fake_sdxl(tmp_path / "models--stabilityai--sdxl-turbo" / "snapshots" / ("ab" * 20))
    models = registry(cuda=True, sdxl_model=str(folder))
    assert models.models(TaskType.TEXT2IMG) == ("stabilityai/sdxl-turbo",)
    described = models.describe(TaskType.TEXT2IMG)
    assert (described.name, described.few_steps) == ("stabilityai/sdxl-turbo", True)


def test_a_folder_around_one_file_is_told_that_the_file_is_to_be_named(tmp_path: Path) -> None:
    put_weights(tmp_path / "photo" / "photo.safetensors")
    with pytest.raises(ModelUnavailable, match=r"name the \.safetensors file that lies in it"):
        registry(cuda=True, sdxl_model=str(tmp_path / "photo")).spec(TaskType.TEXT2IMG)


def test_a_file_beside_a_single_file_speaks_for_it(tmp_path: Path) -> None:
    path = put_header(tmp_path / "my.safetensors", SDXL)
    put(tmp_path / "my.json", {"num_inference_steps": 6, "zero_snr": True, "fps": "fast", "description": "mine"})
    found = registry(cuda=True, sdxl_model=str(path)).describe(TaskType.TEXT2IMG)
    assert (found.num_inference_steps, found.guidance_rescale, found.timestep_spacing) == (6, 0.7, "trailing")
    said = {"my.safetensors": OwnDefaults(num_inference_steps=7)}
    found = registry(cuda=True, sdxl_model=str(path), model_defaults=said).describe(TaskType.TEXT2IMG)
    assert found.num_inference_steps == 7


def test_several_models_are_picked_by_name(tmp_path: Path) -> None:
    photo, anime = fake_sdxl(tmp_path / "a"), fake_sdxl(tmp_path / "b", sample_size=64)
    put(anime / "worker.json", {"name": "Anime XL", "guidance_scale": 4})
    models = registry(cuda=True, sdxl_model=f"photo={photo}, anime={anime}")
    assert models.models(TaskType.INPAINT) == ("photo", "anime")
    assert models.spec(TaskType.TEXT2IMG) == models.spec(TaskType.TEXT2IMG, "photo")
    assert models.spec(TaskType.TEXT2IMG).name == "sdxl:photo"
    found = models.describe(TaskType.TEXT2IMG, "anime")
    assert (found.name, found.width, found.guidance_scale) == ("anime", 512, 4)
    with pytest.raises(InvalidInput, match=r"model: must be one of photo, anime \(got .paint.\)"):
        models.spec(TaskType.TEXT2IMG, "paint")


def test_a_single_model_is_called_what_responses_call_it(tmp_path: Path) -> None:
    models = registry(cuda=True, sdxl_model=str(fake_sdxl(tmp_path / "mine")))
    assert models.spec(TaskType.TEXT2IMG, "mine") == models.spec(TaskType.TEXT2IMG)
    assert registry(cuda=True).spec(TaskType.TEXT2IMG, SDXL_BASE).main.name == SDXL_BASE
    with pytest.raises(InvalidInput):
        models.describe(TaskType.TEXT2IMG, "other")


def test_a_model_for_images_to_videos_is_picked_among_all_that_can(tmp_path: Path) -> None:
    t2v, both = fake_wan(tmp_path / "t2v"), fake_wan(tmp_path / "both", in_channels=48, scale=16, expand_timesteps=True)
    i2v = fake_wan(tmp_path / "i2v", in_channels=36)
    models = registry(cuda=True, wan_model=f"words={t2v}, both={both}", wan_i2v_model=f"still={i2v}")
    assert models.models(TaskType.TEXT2VIDEO) == ("words", "both")
    assert models.models(TaskType.IMG2VIDEO) == ("still", "both")
    assert models.spec(TaskType.IMG2VIDEO).name == "wan:still+i2v"
    assert models.spec(TaskType.IMG2VIDEO, "both") == models.spec(TaskType.TEXT2VIDEO, "both")
    with pytest.raises(InvalidInput, match="still, both"):
        models.spec(TaskType.IMG2VIDEO, "words")


@pytest.mark.e2e
def test_nothing_here_imports_torch() -> None:
    code = (
        "import sys, worker.engine.engine as e; from worker.core.config import load_settings;"
        "e.Engine(load_settings()).describe(e.TaskType('text2video'));"
        "bad = {'torch', 'diffusers', 'transformers'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_makes_colours_of_its_latents_is_the_models_own_and_then_the_operators() -> None:
    tasks = (TaskType.TEXT2IMG, TaskType.TEXT2VIDEO)
    own = [registry(cuda=False).spec(task).preview_factors for task in tasks]
    assert [len(rows or ()) for rows in own] == [5, 13], "of the demo models, with 4 and 12 channels"
    said = OwnDefaults.model_validate({"preview_factors": [[1, 0, 0], [0, 0.5, 0]]})
    named = registry(cuda=False, sdxl_model="demo", model_defaults={"demo": said})
    assert named.spec(TaskType.TEXT2IMG).preview_factors == ((1, 0, 0), (0, 0.5, 0))


def test_what_is_said_of_a_model_that_is_not_there_is_told() -> None:
    own = OwnDefaults(num_inference_steps=9)
    named = registry(cuda=False, sdxl_model="photo=demo", model_defaults={"photo": own, "demo": own, "phto": own})
    assert named.unmatched_defaults() == ("phto",)


@pytest.mark.parametrize(
    ("source", "end", "chunks"),
    [
        ("Wan-AI/Wan2.2-I2V-A14B-Diffusers", "optional", None),
        ("Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers", "required", 1),
        ("Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", "no", 1),
        ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "no", None),
    ],
)
def test_what_a_model_takes_is_told_before_it_is_here(source: str, end: str, chunks: int | None) -> None:
    variable = "wan_model" if "TI2V" in source else "wan_i2v_model"
    values: dict[str, Any] = {variable: source}
    said = registry(cuda=True, **values).describe(TaskType.IMG2VIDEO)
    assert (said.end_image, said.most_chunks) == (end, chunks)


def test_a_clips_model_says_whether_it_has_two_experts() -> None:
    assert registry(cuda=False).describe(TaskType.TEXT2VIDEO).has_experts is False
    assert (
        registry(cuda=True, wan_model="Wan-AI/Wan2.2-T2V-A14B-Diffusers").describe(TaskType.TEXT2VIDEO).has_experts
        is None
    )


def test_an_images_model_says_which_control_pictures_it_takes() -> None:
    assert "canny" in (registry(cuda=False).describe(TaskType.TEXT2IMG).control_types or ())
    assert registry(cuda=True).describe(TaskType.TEXT2IMG).control_types == ()
    both = registry(cuda=True, sdxl_model="demo", controlnet_model="canny=demo").describe(TaskType.INPAINT)
    assert both.control_types == ("canny",)
    assert registry(cuda=True, controlnet_model="canny=demo").describe(TaskType.TEXT2IMG).control_types is None


def test_a_control_picture_that_a_network_turns_out_not_to_take_is_told_by_its_field() -> None:
    """A network that a job downloads may take fewer types than were assumed when the job was planned."""
    one = {"type": "tile", "image_url": "https://pictures.example/a.png"}
    served = registry(cuda=False, controlnet_model="canny=demo")
    for scale, refused in ((1, True), (0, False)):
        request = parse({"prompt": "p", "controlnets": [one | {"conditioning_scale": scale}]})
        if refused:
            with pytest.raises(InvalidInput, match=r"controlnets\.0\.type: must be one of canny"):
                served.spec(TaskType.TEXT2IMG, None, request)
        else:
            assert served.spec(TaskType.TEXT2IMG, None, request).extras == ()
