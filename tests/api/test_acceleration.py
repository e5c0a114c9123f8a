"""A request's `acceleration`, and its effect on a model that is set up for it."""

from dataclasses import replace
from typing import Any

import pytest

from worker.api.acceleration import accelerated
from worker.api.departures import departures
from worker.api.fingerprint import fingerprint
from worker.api.loras import lora_params, wanted_loras
from worker.api.params import LoraParams, ModelDefaults
from worker.api.request import Request, parse
from worker.api.resolve import resolve
from worker.core.config import ConfigError, load_settings
from worker.core.errors import InvalidInput
from worker.core.types import Scheduler

SDXL = ModelDefaults("base", 1024, 1024, num_inference_steps=30, guidance_scale=5.0)
WAN = ModelDefaults("wan", 832, 480, num_inference_steps=50, guidance_scale=5.0, size_multiple=16)
LIGHTNING: dict[str, Any] = {
    "num_inference_steps": 8,
    "guidance_scale": 0,
    "scheduler": "K_EULER_TRAILING",
    "loras": [{"path": "lightning"}],
}
HYPER: dict[str, Any] = {
    "num_inference_steps": 1,
    "guidance_scale": 0,
    "scheduler": "LCM",
    "original_inference_steps": 100,
    "loras": [{"path": "hyper", "scale": 0.5}],
}
SETTINGS = load_settings(
    loras={
        "lightning": "/l.safetensors",
        "hyper": {"source": "org/hyper@main", "weight_name": "h.safetensors", "scale": 0.8},
        "also-hyper": "https://huggingface.co/org/hyper/resolve/main/h.safetensors",
        "wan": "/w.safetensors",
        "ink": "/i.safetensors",
    },
    accelerations={
        "sdxl": {"regular": LIGHTNING, "high": HYPER},
        "wan": {
            "regular": {
                "num_inference_steps": 4,
                "guidance_scale": 1,
                "flow_shift": 5,
                "high_noise_loras": [{"path": "wan"}],
                "low_noise_loras": [{"path": "wan", "scale": 0.5}],
            }
        },
        "high-only": {"regular": {"num_inference_steps": 4, "high_noise_loras": [{"path": "wan"}]}},
        "my-own": {"regular": {"num_inference_steps": 12}},
    },
)


def faster(fields: dict[str, Any], defaults: ModelDefaults = SDXL, usual: Any = None) -> Any:
    request, listed = asked(fields), SETTINGS.loras or {}
    own = wanted_loras(request, listed, ("hub",))
    return accelerated(request, own, defaults, SETTINGS.accelerations or {}, listed, usual=usual)


def asked(fields: dict[str, Any]) -> Request:
    return parse({"prompt": "a fox", **fields})


def numbers(fields: dict[str, Any], defaults: ModelDefaults = SDXL) -> Any:
    found = faster(fields, defaults)
    params = resolve(asked(fields), found.defaults, max_image_pixels=2**22, max_job_cost=2**40)
    return replace(params, **found.params)


@pytest.mark.parametrize("fields", [{}, {"acceleration": "none"}, {"acceleration": None}])
def test_who_lets_nothing_go_gets_the_model_as_it_is(fields: dict[str, Any]) -> None:
    found = faster(fields)
    assert found.defaults is SDXL
    assert (found.loras, found.level, found.warnings, found.params) == ((), None, (), {})


def test_a_level_brings_its_steps_its_guidance_its_schedule_and_its_loras() -> None:
    found = faster({"acceleration": "high"})
    params = numbers({"acceleration": "high"})
    assert (params.num_inference_steps, params.guidance_scale, params.scheduler) == (1, 0.0, Scheduler.LCM)
    assert (params.original_inference_steps, params.acceleration) == (100, "high")
    ((field, name, scale, listed),) = [(one.field, one.name, one.scale, one.listed) for one in found.loras]
    assert (field, name, listed) == ("loras.0.path", "hyper", True)
    assert scale == pytest.approx(0.4)


def test_the_requests_own_loras_come_first() -> None:
    found = faster({"acceleration": "regular", "loras": [{"path": "hyper"}, {"path": "ink", "scale": 2}]})
    assert [(one.field, one.name) for one in found.loras] == [
        ("loras.0.path", "hyper"),
        ("loras.1.path", "ink"),
        ("loras.2.path", "lightning"),
    ]
    assert found.warnings == ()


@pytest.mark.parametrize("path", ["hyper", "also-hyper", "org/hyper"])
def test_a_lora_that_comes_with_the_level_is_applied_once_by_the_levels_scale(path: str) -> None:
    own = [{"path": path, "scale": 2}, {"path": "ink"}]
    found = faster({"acceleration": "high", "loras": own})
    assert [(one.name, one.scale) for one in found.loras] == [("ink", 1.0), ("hyper", pytest.approx(0.4))]
    assert found.warnings == (f"loras.0.path: {path} comes with acceleration, too; it is applied once, by its scale",)
    assert [one.scale for one in faster({"loras": own}).loras] == [1.6 if path == "hyper" else 2.0, 1.0]


def test_what_comes_for_one_expert_is_left_to_the_other() -> None:
    def loras(**fields: Any) -> dict[str, list[tuple[str, float]]]:
        said = lora_params(faster({"acceleration": "high", "task_type": "text2video", **fields}, WAN).loras)
        return {field: [(one.name, one.scale) for one in entries] for field, entries in said.items()}

    brought = {"high_noise_loras": [("wan", 1.0)], "low_noise_loras": [("wan", 0.5)]}
    assert loras() == loras(loras=[{"path": "wan"}]) == loras(low_noise_loras=[{"path": "wan", "scale": 2}]) == brought
    own = replace(WAN, name="high-only")
    found = faster({"acceleration": "regular", "task_type": "text2video", "loras": [{"path": "wan", "scale": 2}]}, own)
    assert lora_params(found.loras) == {
        "low_noise_loras": (LoraParams("wan", 2.0),),
        "high_noise_loras": (LoraParams("wan", 1.0),),
    }


def test_of_two_experts_each_gets_its_own() -> None:
    found = faster({"acceleration": "high", "task_type": "text2video"}, WAN)
    assert found.level == "regular", "who lets much go lets less go, too"
    assert [(one.field, one.expert, one.scale) for one in found.loras] == [
        ("high_noise_loras.0.path", "high", 1.0),
        ("low_noise_loras.0.path", "low", 0.5),
    ]
    assert (found.defaults.num_inference_steps, found.defaults.flow_shift) == (4, 5)


def test_the_operator_says_what_is_usual_and_a_request_says_otherwise() -> None:
    assert faster({}, usual="regular").level == "regular"
    assert faster({"acceleration": "none"}, usual="regular").level is None
    assert faster({"acceleration": "high"}, usual="regular").level == "high"


def test_a_models_own_entry_counts_before_that_of_its_kind() -> None:
    own = replace(SDXL, name="my-own")
    assert faster({"acceleration": "regular"}, own).defaults.num_inference_steps == 12
    assert faster({"acceleration": "regular"}, own).loras == ()


@pytest.mark.parametrize(
    ("fields", "defaults", "word"),
    [
        ({"acceleration": "regular"}, replace(SDXL, few_steps=True, name="turbo"), "turbo is not set up for regular"),
        (
            {
                "acceleration": "high",
                "task_type": "upscale",
                "image_url": "https://u.example/a.png",
                "upscale_factor": 2,
            },
            SDXL,
            "has no effect on a picture that is made larger",
        ),
    ],
)
def test_what_has_no_effect_is_said_where_it_was_asked_for(
    fields: dict[str, Any], defaults: ModelDefaults, word: str
) -> None:
    (said,) = faster(fields, defaults).warnings
    assert said.startswith("acceleration: ")
    assert word in said
    assert faster({**fields, "acceleration": None}, defaults, usual="high").warnings == ()


def test_what_the_client_says_in_so_many_words_counts_and_is_remarked_on() -> None:
    fields = {"acceleration": "regular", "num_inference_steps": 30, "guidance_scale": 7, "scheduler": "DDIM"}
    params = numbers(fields)
    assert (params.num_inference_steps, params.guidance_scale, params.scheduler) == (30, 7.0, Scheduler.DDIM)
    said = departures(asked(fields), params, faster(fields).defaults)
    assert [one.partition(":")[0] for one in said] == ["num_inference_steps", "scheduler", "guidance_scale"]
    assert all("this acceleration was made for" in one for one in said)


def test_what_is_for_two_experts_is_no_level_of_a_model_with_one() -> None:
    settings = {"my-own": SETTINGS.accelerations["wan"]} if SETTINGS.accelerations else {}
    own = replace(SDXL, name="my-own")
    found = accelerated(asked({"acceleration": "regular"}), (), own, settings, SETTINGS.loras or {}, usual=None)
    assert (found.level, found.loras, found.params) == (None, (), {})
    assert found.warnings == ("acceleration: has no effect; my-own is not set up for regular here",)


def test_more_steps_than_the_few_are_chosen_from_are_refused_before_any_model() -> None:
    chosen = replace(SDXL, scheduler=Scheduler.LCM, original_inference_steps=20)
    for steps, most in ((21, 20), (51, 50)):
        defaults = chosen if most == 20 else replace(chosen, original_inference_steps=None)
        with pytest.raises(InvalidInput) as error:
            resolve(asked({"num_inference_steps": steps}), defaults, max_image_pixels=2**22, max_job_cost=2**40)
        assert [one.field for one in error.value.problems] == ["num_inference_steps"]
        assert f"{most}" in str(error.value)
        resolve(asked({"num_inference_steps": most}), defaults, max_image_pixels=2**22, max_job_cost=2**40)
    assert numbers({"acceleration": "high", "num_inference_steps": 60}).num_inference_steps == 60


def test_a_request_that_does_not_use_it_keeps_its_fingerprint() -> None:
    plain = fingerprint(asked({}))
    assert fingerprint(asked({"acceleration": None})) == plain
    assert fingerprint(asked({"acceleration": "high"})) != plain


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (
            {"sdxl": {"regular": {**LIGHTNING, "loras": [{"path": "nobody"}]}}},
            "sdxl.regular: nobody: LORAS has no such",
        ),
        ({"sdxl": {"fastest": LIGHTNING}}, "fastest"),
        ({"sdxl": {"regular": {"guidance_scale": 1}}}, "num_inference_steps"),
        ({"sdxl": {"regular": {**LIGHTNING, "prompt": "x"}}}, "prompt"),
        ({"sdxl": {"regular": {**LIGHTNING, "high_noise_loras": [{"path": "lightning"}]}}}, "one expert"),
        (
            {"sdxl": {"regular": {"num_inference_steps": 8, "original_inference_steps": 4}}},
            "original_inference_steps",
        ),
        ("[]", "ACCELERATIONS"),
        ("{", "must be a JSON object"),
    ],
)
def test_what_cannot_be_set_up_stops_the_worker_and_names_the_variable(value: Any, word: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_settings(loras={"lightning": "/l.safetensors"}, accelerations=value)
    assert word in str(error.value)
    assert "ACCELERATIONS" in str(error.value)


def test_a_level_with_loras_for_experts_is_none_of_a_model_with_one_network() -> None:
    """Else the client would be blamed, on the card, for what the operator set up for another model of the family."""
    fields = {"task_type": "text2video", "acceleration": "regular"}
    assert faster(fields, replace(WAN, has_experts=True)).level == faster(fields, WAN).level == "regular"
    found = faster(fields, replace(WAN, has_experts=False))
    assert (found.level, found.loras) == (None, ())
    assert found.warnings == ("acceleration: has no effect; wan is not set up for regular here",)
