"""The files that a machine, Docker and RunPod's Hub read: they agree with each other and with the worker."""

import fnmatch
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.full_size_models import WAN_22_VAE, WAN_TI2V_TRANSFORMER
from tools.bake_models import IP_ADAPTER, PROMAX, choose_files, component_folders
from tools.lock import pinned
from worker.api.request import REQUESTS, parse
from worker.api.resolve import resolve
from worker.core.config import Settings, load_settings
from worker.core.types import TaskType
from worker.engine.estimate import Estimator
from worker.engine.memory.placement import Demand, decide
from worker.engine.memory.room import Size, room
from worker.engine.models import controlnet_files, hub
from worker.engine.models.ip_adapter_files import ENCODERS, PREFERRED
from worker.engine.models.registry import PINNED, ModelRegistry
from worker.engine.protocol import Placement
from worker.engine.work import Networks

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
HUB: dict[str, Any] = json.loads((ROOT / ".runpod/hub.json").read_text(encoding="utf-8"))
TESTS: dict[str, Any] = json.loads((ROOT / ".runpod/tests.json").read_text(encoding="utf-8"))
TEST_INPUT: dict[str, Any] = json.loads((ROOT / "test_input.json").read_text(encoding="utf-8"))
INPUTS: dict[str, dict[str, Any]] = {entry["key"]: entry["input"] for entry in HUB["config"]["env"] if "input" in entry}
ENV_LISTS = [*HUB["config"]["env"], *TESTS["config"]["env"]]

# Names that RunPod's SDK or platform reads itself; the worker never sees them.
PLATFORM_VARIABLES = {"RUNPOD_INIT_TIMEOUT", "RUNPOD_LOG_LEVEL"}
SECRET_SIGNS = (
    r"-----BEGIN|AIza[0-9A-Za-z_-]{20}|hf_[A-Za-z0-9]{20}|rpa_[A-Z0-9]{20}|private_key|\b(TOKEN|PASSWORD|SECRET)="
)


def setting_names() -> set[str]:
    """Return every environment variable that the worker's settings read, in capitals."""
    names = set()
    for name, field in Settings.model_fields.items():
        names |= {str(choice).upper() for choice in getattr(field.validation_alias, "choices", [name])}
    return names


def instructions(word: str) -> list[str]:
    """Return the arguments of every `word` instruction in the Dockerfile, continuation lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    return [line.split(maxsplit=1)[1] for line in joined.splitlines() if line.startswith(f"{word} ")]


def reaches_the_build(path: str) -> bool:
    """Whether `.dockerignore` lets this path into the build context (Docker's rule: the last match wins)."""
    kept = True
    parents = [path, *(str(parent) for parent in Path(path).parents if str(parent) != ".")]
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!").removeprefix("**/")
        if not line or line.startswith("#"):
            continue
        names = [name for parent in parents for name in ({parent, Path(parent).name} if "**/" in line else {parent})]
        if any(fnmatch.fnmatchcase(name, pattern) for name in names):
            kept = line.startswith("!")
    return kept


# --- RunPod's Hub ---------------------------------------------------------------------------------------------------


def test_the_hub_listing_has_every_required_field_with_an_allowed_value() -> None:
    assert HUB["title"]
    assert HUB["description"]
    assert HUB["type"] == "serverless"
    assert HUB["category"] in {"audio", "embedding", "language", "video", "image"}
    config = HUB["config"]
    assert config["runsOn"] == "GPU"
    assert isinstance(config["containerDiskInGb"], int)
    assert config["gpuCount"] == 1
    assert all(re.fullmatch(r"-?[A-Z0-9][A-Za-z0-9_ ]+", part) for part in config["gpuIds"].split(","))


def test_the_hub_and_its_tests_allow_the_same_cuda_versions_all_of_which_run_cuda_13_wheels() -> None:
    allowed = HUB["config"]["allowedCudaVersions"]
    assert allowed == TESTS["config"]["allowedCudaVersions"]
    assert "13.0" in allowed
    assert all(re.fullmatch(r"13\.\d+", version) for version in allowed)


@pytest.mark.parametrize("entry", HUB["config"]["env"], ids=lambda entry: entry["key"])
def test_each_hub_variable_is_a_fixed_value_or_an_input_of_a_known_kind(entry: dict[str, Any]) -> None:
    assert ("value" in entry) != ("input" in entry)
    if "value" in entry:
        assert isinstance(entry["value"], str)
        return
    field = entry["input"]
    assert field["name"]
    assert field["description"]
    match field["type"]:
        case "string" if "options" in field:
            assert field["default"] in {option["value"] for option in field["options"]}
        case "string" | "huggingface":
            assert isinstance(field["default"], str)
        case "number":
            assert field["min"] <= field["default"] <= field["max"]
        case "boolean":
            assert isinstance(field["default"], bool)
            assert (field["trueValue"], field["falseValue"]) == ("true", "false")
        case other:
            pytest.fail(f"{other} is no kind of input that the Hub knows")


@pytest.mark.parametrize("key", sorted({entry["key"] for entry in ENV_LISTS} - PLATFORM_VARIABLES))
def test_each_variable_that_the_hub_sets_is_one_that_the_worker_reads(key: str) -> None:
    assert key in setting_names()


def test_each_preset_sets_only_variables_that_the_hub_asks_for() -> None:
    presets = HUB["config"]["presets"]
    assert {preset["name"] for preset in presets} == {"Images and videos", "Images only", "Videos only"}
    for preset in presets:
        assert set(preset["defaults"]) <= set(INPUTS)


@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda preset: preset["name"])
def test_each_preset_configures_a_model_for_every_task_that_it_promises(
    preset: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in setting_names():
        monkeypatch.delenv(name, raising=False)
    for key, field in INPUTS.items():
        value = preset["defaults"].get(key, field["default"])
        monkeypatch.setenv(key, {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value))
    settings = load_settings()
    models = ModelRegistry(settings, cuda=True, where=())
    for task in settings.preload_tasks or tuple(TaskType):
        named = preset["defaults"]["SDXL_MODEL" if models.spec(task).family == "sdxl" else "WAN_MODEL"]
        assert models.spec(task).main.hub_id == named


DEFAULTS = [preset["defaults"] for preset in HUB["config"]["presets"]]


def test_every_hub_id_of_the_listing_is_pinned_to_a_commit() -> None:
    named = [value for defaults in DEFAULTS for key, value in defaults.items() if "_MODEL" in key]
    named += [str(field["default"]) for key, field in INPUTS.items() if key.endswith(("_MODEL", "_VAE", "_REFINER"))]
    tested = {entry["key"]: entry["value"] for entry in TESTS["config"]["env"]}
    named += [value for key, value in tested.items() if key.endswith("_MODEL") and value != "demo"]
    for value in filter(None, [*named, *PINNED.values()]):
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", value), value


def test_the_listing_and_the_worker_mean_the_same_commit() -> None:
    pinned = {hub.parts(value)[0]: value for defaults in DEFAULTS for value in defaults.values()}
    assert all(pinned.get(name, value) == value for name, value in PINNED.items())


POOLS = {"ADA_24": 23.5, "AMPERE_48": 44.3, "ADA_48_PRO": 44.3, "AMPERE_80": 79.1, "ADA_80_PRO": 79.1}
"""GPU pool -> GiB that torch sees of its smallest card: 4090; A40, A6000; L40, L40S, 6000 Ada; A100; H100
(https://docs.runpod.io/references/gpu-types)."""
CONTEXT_GIB = 0.6
"""GiB that CUDA itself takes of a card."""
BYTES = {
    "stabilityai/stable-diffusion-xl-base-1.0": {
        "text_encoder": 2 * 123_060_480,
        "text_encoder_2": 2 * 694_659_840,
        "unet": 2 * 2_567_463_684,
        "vae": 2 * 83_653_863,
    },
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": {
        "text_encoder": 2 * 5_680_910_336,
        "transformer": 2 * 4_999_787_712,
        "vae": 2 * 555_051_580 + 4 * 149_637_088,
    },
}
"""Model of a preset -> its networks' bytes as the worker loads them: those of benchmarks/full_size_models.py."""


def presets_models(preset: dict[str, Any]) -> dict[str, TaskType]:
    """Return each model of a preset -> a task that it serves."""
    tasks = {"SDXL_MODEL": TaskType.TEXT2IMG, "WAN_MODEL": TaskType.IMG2VIDEO}
    return {preset["defaults"][key]: task for key, task in tasks.items() if key in preset["defaults"]}


def placed(preset: dict[str, Any], free: int) -> dict[str, Placement]:
    """Return the placement of each of a preset's models for a job of its native size, on an otherwise empty card."""
    names = presets_models(preset)
    settings = load_settings(**{key.lower(): value for key, value in preset["defaults"].items() if "MODEL" in key})
    models, found = ModelRegistry(settings, cuda=True, where=()), {}
    for name, task in names.items():
        size = Size.native(task, models.describe(task))
        demand = Demand(name, BYTES[hub.parts(name)[0]], room(models.spec(task), size, cuda=True))
        found[name] = decide(demand, [], free=free, total=free)
    return found


@pytest.mark.parametrize("pool", HUB["config"]["gpuIds"].split(","))
@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda preset: preset["name"])
def test_each_preset_fits_every_card_that_the_listing_names(preset: dict[str, Any], pool: str) -> None:
    """A preset names no cards (https://docs.runpod.io/hub/publishing-guide): it may get any of the listing's."""
    found = placed(preset, int((POOLS[pool] - CONTEXT_GIB) * 2**30))
    assert {(placement.mode, placement.tiles) for placement in found.values()} <= {
        ("resident", False),
        ("partly", False),
    }


@pytest.mark.parametrize("pool", [pool for pool in HUB["config"]["gpuIds"].split(",") if POOLS[pool] > 40])
@pytest.mark.parametrize("preset", HUB["config"]["presets"], ids=lambda preset: preset["name"])
def test_from_48_gb_all_models_of_a_preset_stay_on_the_card(preset: dict[str, Any], pool: str) -> None:
    free = int((POOLS[pool] - CONTEXT_GIB) * 2**30)
    for name in presets_models(preset):
        others = sum(sum(BYTES[hub.parts(other)[0]].values()) for other in presets_models(preset) if other != name)
        assert placed(preset, free - others)[name].mode == "resident", name


SLOWEST = {
    "ADA_24": "NVIDIA GeForce RTX 4090",
    "AMPERE_48": "NVIDIA A40",
    "ADA_48_PRO": "NVIDIA L40",
    "AMPERE_80": "NVIDIA A100 80GB PCIe",
    "ADA_80_PRO": "NVIDIA H100 PCIe",
}
"""GPU pool -> its slowest card."""


@pytest.mark.parametrize("pool", HUB["config"]["gpuIds"].split(","))
def test_the_longest_job_of_the_presets_ends_in_time_on_every_card_that_the_listing_names(pool: str) -> None:
    """The clip of a request with only a prompt and a picture."""
    preset = next(preset for preset in HUB["config"]["presets"] if preset["name"] == "Videos only")
    settings = load_settings(wan_model=preset["defaults"]["WAN_MODEL"])
    defaults = ModelRegistry(settings, cuda=True, where=()).describe(TaskType.IMG2VIDEO)
    request = parse({"task_type": "img2video", "prompt": "a fox", "image_url": "https://example.com/a.png"})
    params = resolve(request, defaults, max_image_pixels=settings.max_image_pixels, max_job_cost=settings.max_job_cost)
    estimator = Estimator()
    estimator.card = SLOWEST[pool]
    networks = Networks("wan", WAN_TI2V_TRANSFORMER, WAN_22_VAE)
    estimate = estimator.estimate(networks, params, from_image=True)
    assert estimate.basis == "card"
    assert not estimate.exceeds(settings.job_timeout_seconds), f"{estimate.seconds:.0f} s"


def test_the_listing_prefers_cards_on_which_nothing_has_to_leave() -> None:
    """The first pools are preferred; the 24 GB card, on which image and video models take turns, is the last."""
    sizes = [POOLS[pool] > 40 for pool in HUB["config"]["gpuIds"].split(",")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    "key", sorted(key for key, field in INPUTS.items() if field["type"] == "number" or key == "LOG_LEVEL")
)
def test_the_hub_shows_the_same_defaults_as_the_worker_has(key: str) -> None:
    fields = Settings.model_fields
    assert fields[key.lower()].default == INPUTS[key]["default"]


def test_no_hub_default_or_test_value_holds_a_secret() -> None:
    assert INPUTS["FIREBASE_SERVICE_ACCOUNT_KEY"]["default"] == ""
    for text in (json.dumps(HUB), json.dumps(TESTS)):
        assert not re.search(SECRET_SIGNS, text)


def test_the_hubs_tests_run_every_task() -> None:
    assert {parse(test["input"]).task_type for test in TESTS["tests"]} == set(REQUESTS)


@pytest.mark.parametrize("test", TESTS["tests"], ids=lambda test: test["name"])
def test_each_hub_test_is_a_legal_request_with_a_timeout_in_milliseconds(test: dict[str, Any]) -> None:
    assert 5_000 <= test["timeout"] <= 600_000
    parse(test["input"])


def test_the_input_that_the_sdk_picks_up_by_itself_is_a_legal_request() -> None:
    assert set(TEST_INPUT) == {"input"}
    assert parse(TEST_INPUT["input"]).task_type == "text2img"


# --- The image ------------------------------------------------------------------------------------------------------


def test_the_image_starts_python_itself_as_process_1() -> None:
    assert json.loads(instructions("CMD")[-1]) == ["python", "-u", "handler.py"]
    assert not instructions("ENTRYPOINT")


def test_the_image_lets_the_allocator_grow_what_it_has() -> None:
    """Under the name that torch 2.9 still reads, because it ignores its new one (pytorch/pytorch#183387)."""
    assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in " ".join(instructions("ENV")).split()


def test_the_image_takes_its_base_from_an_argument() -> None:
    assert instructions("ARG")[0].startswith("BASE_IMAGE=")
    assert instructions("FROM") == ["${BASE_IMAGE}"]


def test_the_image_does_not_run_as_root() -> None:
    default = next(line.partition("=")[2] for line in instructions("ARG") if line.startswith("RUN_AS="))
    assert instructions("USER")[-1] == "${RUN_AS}"
    assert default not in {"", "root", "0"}


def test_the_dockerfile_holds_no_secret() -> None:
    assert not re.search(SECRET_SIGNS, DOCKERFILE)
    assert "FIREBASE" not in DOCKERFILE


@pytest.mark.e2e
def test_outputs_stay_out_of_the_log_because_the_sdk_is_told_before_it_is_imported() -> None:
    main = (ROOT / "handler.py").read_text(encoding="utf-8").split("def main()", 1)[1]
    assert -1 < main.index("set_library_defaults()") < main.index("import runpod")
    code = "import os; from worker.core.config import set_library_defaults as quiet; quiet(); print(os.environ['{}'])"
    command = [sys.executable, "-c", code.format("RUNPOD_LOG_LEVEL")]
    environment = {name: value for name, value in os.environ.items() if name != "RUNPOD_LOG_LEVEL"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert done.stdout.strip() == b"INFO"


def test_a_change_of_code_does_not_install_the_requirements_again() -> None:
    order = [
        DOCKERFILE.index(sign) for sign in ("COPY requirements.txt", "RUN pip install", "python tools/bake_models.py")
    ]
    assert order == sorted(order)
    assert order[-1] < DOCKERFILE.index("COPY worker")


def test_the_image_has_the_compiler_that_compiling_asks_for_and_nothing_that_it_came_from() -> None:
    (install,) = (line for line in instructions("RUN") if "apt-get" in line)
    assert "install -y --no-install-recommends gcc libc6-dev" in install
    assert install.endswith("rm -rf /var/lib/apt/lists/*")
    assert DOCKERFILE.index("apt-get") < DOCKERFILE.index("COPY requirements.txt")


def test_weights_in_the_image_are_read_by_the_worker_and_not_written() -> None:
    before = DOCKERFILE.split("python tools/bake_models.py", 1)[0]
    assert "\nUSER " not in before
    owned = re.findall(r"install -d -o worker -g worker (\S+)", before)
    assert owned == ["/models/huggingface"]
    assert "HF_HOME=/models/huggingface" in before


def test_everything_that_the_image_copies_reaches_the_build_and_exists() -> None:
    for line in instructions("COPY"):
        for source in line.split()[:-1]:
            assert reaches_the_build(source), source
            assert (ROOT / source).exists(), source


def test_the_demo_models_are_in_every_image() -> None:
    assert any(line.split()[0] == "worker" for line in instructions("COPY"))
    for path in (ROOT / "worker/demo_models").rglob("*"):
        assert reaches_the_build(path.relative_to(ROOT).as_posix()), path


@pytest.mark.parametrize(
    "path",
    [".git/config", ".env", ".venv/bin/python", "tests/conftest.py", "outputs/a.png", ".cache/full-size/a.json",
     "service-account.json", "worker/__pycache__/task.cpython-311.pyc", "tools/lock.sh", "README.md"],
)  # fmt: skip
def test_what_the_image_does_not_need_stays_out_of_the_build(path: str) -> None:
    assert not reaches_the_build(path)


# --- Packages -------------------------------------------------------------------------------------------------------


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").replace(" \\\n    --hash", " --hash").splitlines()
    kept = [line.split(" --hash")[0] for line in lines if line and not line.startswith(("#", "-r "))]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line) for line in kept), (
        "every line pins one version"
    )
    return {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower(): line.split("==")[1] for line in kept}


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_constraints_hold_every_direct_pin(name: str) -> None:
    assert pins(name).items() <= pins("constraints.txt").items()


@pytest.mark.parametrize("name", ["constraints.txt", "tools/pip.txt"])
def test_every_package_that_is_installed_is_known_by_its_hash(name: str) -> None:
    found = pinned((ROOT / name).read_text(encoding="utf-8"))
    assert {package.replace(".", "-") for package in found} == set(pins(name))
    assert all(hashes for _, hashes in found.values())


def test_what_torch_needs_on_a_gpu_is_known_by_its_hash_too() -> None:
    assert {"nvidia-cudnn-cu13", "nvidia-cublas", "triton"} <= set(pins("constraints.txt"))


def test_image_and_environment_are_installed_by_the_pip_that_reads_hashes_in_constraints() -> None:
    ways = [DOCKERFILE, (ROOT / "Makefile").read_text(encoding="utf-8")]
    for way in ways:
        assert re.search(r"pip install [^\n]*-r \S*pip\.txt", way)
        assert way.index("pip.txt &&" if way is DOCKERFILE else "-r tools/pip.txt") < way.index("-c constraints.txt")
    assert tuple(int(part) for part in pins("tools/pip.txt")["pip"].split(".")[:2]) >= (26, 1)


def test_the_image_stands_on_a_base_that_nobody_can_exchange() -> None:
    base = re.search(r"^ARG BASE_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base
    assert re.fullmatch(r"python:3\.11-slim-trixie@sha256:[0-9a-f]{64}", base[1])


# --- Baking models --------------------------------------------------------------------------------------------------

SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline",
    "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "image_encoder": [None, None],
}
SDXL_FILES = [
    "README.md", "model_index.json", "comparison.png",
    "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors",
    "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json",
    "text_encoder/config.json", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors",
    "text_encoder/flax_model.msgpack", "text_encoder/model.onnx",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.bin", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/config.json", "vae_1_0/diffusion_pytorch_model.safetensors", "vae_decoder/config.json",
]  # fmt: skip


def test_baking_a_pipeline_takes_each_set_of_weights_once_and_the_smaller_one() -> None:
    assert choose_files(SDXL_FILES, component_folders(SDXL_INDEX)) == [
        "model_index.json", "scheduler/scheduler_config.json",
        "text_encoder/config.json", "text_encoder/model.fp16.safetensors",
        "tokenizer/merges.txt", "tokenizer/vocab.json",
        "unet/config.json", "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
    ]  # fmt: skip


def test_baking_sharded_weights_takes_the_index_with_its_shards_and_no_second_precision() -> None:
    index = "transformer/diffusion_pytorch_model.safetensors.index.json"
    full = [f"transformer/diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    half = [f"transformer/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]
    half_index = "transformer/diffusion_pytorch_model.safetensors.index.fp16.json"
    chosen = choose_files(["model_index.json", index, half_index, *full, *half], ["transformer"])
    assert chosen == sorted(["model_index.json", index, *full])


def test_baking_half_precision_leaves_the_index_of_other_shards_out() -> None:
    """It names files that are not baked, and a folder with an index needs every one of them."""
    shards = [f"text_encoder/model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index, half = "text_encoder/model.safetensors.index.json", "text_encoder/model.fp16.safetensors"
    assert choose_files(["text_encoder/config.json", index, half, *shards], ["text_encoder"]) == [
        "text_encoder/config.json",
        half,
    ]


def test_baking_a_single_component_leaves_its_single_file_copies_out() -> None:
    files = [
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "sdxl_vae.safetensors",
        "sdxl.vae.safetensors",
        "a.bin",
    ]
    assert choose_files(files, None) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_baking_ip_adapters_takes_one_for_sdxl_with_its_encoder_as_a_download_does() -> None:
    others = ["README.md", "models/ip-adapter_sd15.safetensors", "sdxl_models/ip-adapter_sdxl.safetensors"]
    chosen = choose_files([*others, "sdxl_models/image_encoder/model.safetensors", *IP_ADAPTER], None)
    assert chosen == [*IP_ADAPTER]
    assert {f"sdxl_models/{PREFERRED[0]}", f"{ENCODERS[0]}/model.safetensors"} < {*chosen}


def test_baking_two_controlnets_in_one_repository_takes_promax() -> None:
    files = ["README.md", "config.json", "diffusion_pytorch_model.safetensors", "config_promax.json"]
    assert choose_files([*files, "diffusion_pytorch_model_promax.safetensors"], None) == [*PROMAX]
    assert controlnet_files.needed_files([*files, PROMAX[1]]) == [*PROMAX]
    assert controlnet_files.needed_files(files) == ["config.json", "diffusion_pytorch_model.safetensors"]


def test_baking_a_stable_diffusion_1_takes_its_safety_checker_alone() -> None:
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "unet": ["diffusers", "UNet2DConditionModel"],
    }
    wanted = [
        "feature_extractor/preprocessor_config.json", "model_index.json",
        "safety_checker/config.json", "safety_checker/model.fp16.safetensors",
    ]  # fmt: skip
    others = ["safety_checker/model.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors", "v1-5.safetensors"]
    assert choose_files([*wanted, *others], component_folders(index)) == wanted


@pytest.mark.e2e
def test_baking_nothing_or_what_is_in_every_image_does_nothing(tmp_path: Path) -> None:
    for arguments in ([], ["demo"]):
        subprocess.run(
            [sys.executable, ROOT / "tools/bake_models.py", *arguments],
            env={**os.environ, "MODELS_DIR": str(tmp_path)},
            check=True,
            timeout=60,
        )
    assert not list(tmp_path.iterdir())
