"""Each LoRA in a request has one source, or is refused with a message before anything is fetched."""

from typing import Any

import pytest

from worker.api.loras import WantedLora, wanted_loras
from worker.api.request import parse
from worker.core.config import ListedLora
from worker.core.errors import InvalidInput
from worker.core.lora_source import HubFile, WebFile

SHA = "a" * 64
LISTED = {
    "ghibli": ListedLora(source="org/ghibli", weight_name="g.safetensors", scale=0.5, sha256=SHA),
    "motion": ListedLora(source="https://files.example.com/motion.safetensors?sig=secret", family="wan"),
    "pixel": ListedLora(source="org/pixel", family="sdxl"),
}


def wanted(task: str, allowed: tuple[str, ...] = (), **fields: Any) -> tuple[WantedLora, ...]:
    pictures = {"image_url": "https://u.example/p.png"} if task == "img2video" else {}
    return wanted_loras(parse({"prompt": "a fox", "task_type": task, **pictures, **fields}), LISTED, allowed)


def refusal(task: str, *paths: str, allowed: tuple[str, ...] = (), **entry: Any) -> str:
    with pytest.raises(InvalidInput) as caught:
        wanted(task, allowed, loras=[{"path": path, **entry} for path in paths])
    return caught.value.message


def test_a_name_of_the_list_is_its_source_at_the_operators_scale() -> None:
    assert wanted("text2img", loras=[{"path": "ghibli", "scale": 1.5}, {"path": "pixel"}]) == (
        WantedLora("loras.0.path", "ghibli", HubFile("org/ghibli", None, "g.safetensors"), 0.75, "both", SHA, True),
        WantedLora("loras.1.path", "pixel", HubFile("org/pixel"), 1.0, "both", None, True),
    )
    assert wanted("text2img") == ()


def test_each_list_of_a_clip_is_for_its_expert() -> None:
    motion, other = [{"path": "motion"}], [{"path": "ghibli"}]
    found = wanted("text2video", loras=motion, high_noise_loras=other, low_noise_loras=motion)
    assert [(one.field, one.expert) for one in found] == [
        ("loras.0.path", "both"),
        ("high_noise_loras.0.path", "high"),
        ("low_noise_loras.0.path", "low"),
    ]


def test_what_is_allowed_beyond_the_list_is_called_by_what_is_public_of_it() -> None:
    url = "https://files.example.com/a/mine.safetensors?sig=secret"
    paths = [{"path": "org/other", "weight_name": "x.safetensors"}, {"path": url}]
    first, second = wanted("text2img", ("hub", ".example.com"), loras=paths)
    assert (first.name, first.source) == ("org/other/x.safetensors", HubFile("org/other", None, "x.safetensors"))
    assert (second.name, second.source) == ("mine.safetensors", WebFile(url, "files.example.com"))
    assert not first.listed
    assert not second.listed


def test_an_unknown_name_is_led_to_the_nearest() -> None:
    said = refusal("text2img", "Gibli")
    assert said == (
        'loras.0.path: is no LoRA of this worker; did you mean ghibli? There are ghibli, motion, pixel (got "Gibli")'
    )
    assert "there are ghibli, motion, pixel, hub ids, URLs of Civitai, https:// URLs of f.example" in refusal(
        "text2img", "something", allowed=("hub", "civitai", "f.example")
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("org/other", 'comes from "hub", where this worker takes no LoRA from'),
        ("https://civitai.com/models/1?modelVersionId=2", 'comes from "civitai"'),
        ("https://evil.example/x.safetensors", 'comes from "evil.example"'),
        ("/etc/passwd", "is no LoRA of this worker"),
        ("file:///etc/passwd", "is no LoRA of this worker"),
        ("http://files.example.com/x.safetensors", "is no LoRA of this worker"),
        ("https://files.example.com@evil.example/x", "is no LoRA of this worker"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(path: str, said: str) -> None:
    message = refusal("text2img", path)
    assert said in message
    assert "there are ghibli, motion, pixel" in message
    assert "secret" not in message


def test_a_lora_of_another_family_and_a_file_beside_a_listed_one_are_refused() -> None:
    assert "loras.0.path: is a LoRA for Wan, which does not go with text2img" in refusal("text2img", "motion")
    assert "loras.0.path: is a LoRA for SDXL, which does not go with text2video" in refusal("text2video", "pixel")
    assert "loras.0.weight_name: goes with a hub id alone" in refusal("text2img", "ghibli", weight_name="x.safetensors")


def test_a_weight_name_beside_a_url_is_what_is_refused() -> None:
    url = "https://f.example/x.safetensors"
    assert refusal("text2img", url, allowed=("f.example",), weight_name="x.safetensors") == (
        'loras.0.weight_name: goes with a hub id alone; a URL names its file itself (got "x.safetensors")'
    )


def test_every_bad_one_is_named_at_once() -> None:
    message = refusal("text2img", "nothing", "ghibli", "motion")
    assert "loras.0.path: " in message
    assert "loras.1" not in message
    assert "loras.2.path: " in message


def test_a_long_list_is_not_written_out() -> None:
    many = {f"lora {index}": ListedLora(source="org/name") for index in range(50)}
    with pytest.raises(InvalidInput, match="30 more names") as caught:
        wanted_loras(parse({"prompt": "a fox", "loras": [{"path": "unheard of"}]}), many, ())
    assert len(caught.value.message) < 500
