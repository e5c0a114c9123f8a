"""Runs one job of every task on this machine, through the same `handler.py` that RunPod runs; no Firebase.

    python test_cloud_local.py ["a red star on a blue background"]

Saves the results under `outputs/`, checks them and prints a table; exits non-zero if a check fails. Without CUDA the
built-in demo models are used.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import handler
from tools import showing
from worker.core.config import REPOSITORY, load_settings
from worker.core.types import TaskType
from worker.job.progress import terminal_bar
from worker.job.services import Services

OUTPUTS = REPOSITORY / "outputs"
SEED = 20260101
Result = tuple[dict[str, Any], list[bytes], float]


async def make(services: Services, name: str, job_input: dict[str, Any]) -> Result:
    """Run one job, with a progress bar on a terminal; return its response, its files and its seconds."""
    bar, started = terminal_bar(name), time.monotonic()
    response = await handler.serve({"id": f"local-{name}", "input": {"seed": SEED, **job_input}}, services, bar)
    if bar is not None:
        bar.close()
    assert "error" not in response, f"{name}: {response['error']}"
    assert response["storage"] == "base64", f"{name}: no Firebase is configured here, yet: {response['storage']}"
    assert response["seed"] == SEED
    return response, [showing.content(uri) for uri in showing.uris(response)], time.monotonic() - started


async def run_all(prompt: str) -> list[tuple[str, Result]]:
    """Run every task, then text2img with each optional feature, and once more with the same seed for the same bytes."""
    settings = load_settings(
        firebase_service_account_key=None,
        firestore_emulator_host=None,
        storage_emulator_host=None,
        loras={"scribbled": str(showing.random_lora(OUTPUTS / "scribbled.safetensors"))},
        styles={"at night": {"prompt": "{prompt}, on black", "num_inference_steps": 12}},
    )
    services = handler.build(settings)
    native = services.generator.describe(TaskType.TEXT2IMG)
    clip = services.generator.describe(TaskType.TEXT2VIDEO)
    width, height = native.width, native.height
    source, mask = showing.source_picture(width, height), showing.centre_mask(width, height)
    still = showing.source_picture(clip.width, clip.height)
    picture, masked = {"image_url": showing.data_uri(source)}, {"mask_url": showing.data_uri(mask)}
    jobs: dict[str, dict[str, Any]] = {
        "text2img": {"num_images": 2},
        "img2img": {"task_type": "img2img", **picture},
        "inpaint": {"task_type": "inpaint", **picture, **masked},
        "text2img, larger": {
            "width": width // 2,
            "height": height // 2,
            "upscale_factor": 2,
            "upscale_creativity": 0.3,
        },
        "upscale": {"task_type": "upscale", **picture, "upscale_factor": 4},
        "text2video": {"task_type": "text2video", "num_frames": 33},
        "img2video": {"task_type": "img2video", "num_frames": 33, "image_url": showing.data_uri(still)},
    }
    if services.generator.describe(TaskType.IMG2VIDEO).end_image != "no":
        jobs["img2video, a loop"] = {**jobs["img2video"], "end_image_url": showing.data_uri(still)}
    added: dict[str, dict[str, Any]] = {
        "text2img, weighted": {"prompt": f"({prompt}:1.5)", "prompt_weighting": True},
        "text2img, at night": {"style": "at night"},
    }
    if native.name == "demo":  # its LoRA fits no other model
        added["text2img with a LoRA"] = {"loras": [{"path": "scribbled"}]}
    if "scribble" in services.generator.controlnet_types():
        drawing = showing.data_uri(showing.drawing(width, height))
        added["text2img by a drawing"] = {
            "controlnets": [{"type": "scribble", "image_url": drawing, "conditioning_scale": 2}]
        }
    if native.has_ip_adapter:
        added["text2img in a style"] = {"ip_adapters": [{**picture, "type": "style", "scale": 1.0}]}
    jobs |= {name: {"num_images": 2, **fields} for name, fields in added.items()}
    jobs["text2img again"] = {"num_images": 2}
    results = [(name, await make(services, _in_a_path(name), {"prompt": prompt, **job})) for name, job in jobs.items()]
    by_name = dict(results)
    assert by_name["text2img"][1] == by_name["text2img again"][1], "the same seed gave other bytes"
    for name in added:
        assert by_name[name][1] != by_name["text2img"][1], f"{name}: changed nothing"
    for name, factor in (("text2img, larger", 1), ("upscale", 4)):
        size = {side: by_name[name][0]["files"][0][side] for side in ("width", "height")}
        assert size == {"width": factor * width, "height": factor * height}, f"{name}: {size}"
    if "img2video, a loop" in by_name:
        assert by_name["img2video, a loop"][1] != by_name["img2video"][1], "the last frame changed nothing"
    repainted = showing.pixels(by_name["inpaint"][1][0])
    outside = np.asarray(mask) == 0
    assert (repainted[outside] == np.asarray(source)[outside]).all(), "inpaint changed pixels outside the mask"
    assert (repainted[~outside] != np.asarray(source)[~outside]).any(), "inpaint changed nothing inside the mask"
    return results


def _in_a_path(name: str) -> str:
    return name.replace(",", "").replace(" ", "-")


def check(name: str, result: Result) -> list[list[object]]:
    """Check a result's claims about its files, save the files, and return their rows of the table."""
    response, files, seconds = result
    rows: list[list[object]] = []
    for index, (said, data) in enumerate(zip(response["files"], files, strict=True)):
        assert said["bytes"] == len(data)
        if said["content_type"].startswith("image/"):
            showing.check_image(data, said["width"], said["height"])
            size = f"{said['width']}x{said['height']}"
        else:
            info = response["video_info"]
            showing.check_video(data, info["width"], info["height"], info["frames"], info["fps"])
            size = f"{info['width']}x{info['height']}x{info['frames']}"
        path = showing.save(OUTPUTS, f"{_in_a_path(name)}-{index}", data, said["content_type"])
        rows.append([name, size, f"{seconds:.1f}", f"{OUTPUTS.name}/{path.name}", said["seed"]])
    return rows


def main(argv: list[str], out: Callable[[str], None] = print) -> int:
    """Run everything; return 0 if every assertion held."""

    def show(prompt: str) -> str:
        results = asyncio.run(run_all(prompt))
        rows = [row for name, result in results for row in check(name, result)]
        out(showing.table(rows, ["task", "size", "seconds", "file", "seed"]))
        return f"{len(rows)} files in {OUTPUTS.name}/, all as they should be; model {results[0][1][0]['model']}"

    return showing.script(__doc__, argv, out, show)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
