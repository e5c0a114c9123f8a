"""The arithmetic of a job's time: cards' rates, and measurements."""

import contextlib
import json
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.support.networks import SDXL, WAN, WAN_14B, WAN_VAE, clip, images
from worker.api.params import Draft, Params, StepCache
from worker.core.config import load_settings
from worker.core.types import Progress, TaskType
from worker.engine import estimate as module
from worker.engine.estimate import Estimate, Estimator, Stopwatch, Unit, rates
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.models.registry import ModelRegistry
from worker.engine.work import SDXL_VAE, UMT5_XXL, Networks, text_encoder

TERA = 1e12


def on(card: str | None, networks: Networks, params: Params) -> Estimate:
    estimator = Estimator()
    estimator.card = card
    return estimator.estimate(networks, params, from_image=False)


@pytest.mark.parametrize(
    ("card", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA A100 80GB PCIe", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX A4000", "A4000"),
        ("NVIDIA RTX A6000", "A6000"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("Tesla T4", None),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", None),
        (None, None),
    ],
)
def test_a_card_is_known_by_the_name_that_cuda_gives_it(card: str | None, name: str | None) -> None:
    assert rates(card) is (module.RATES[name] if name else None)


@pytest.mark.parametrize(
    ("card", "networks", "params", "published"),
    [
        pytest.param("NVIDIA A100-SXM4-80GB", SDXL, images(), 3.3, id="SDXL, 30 steps"),
        pytest.param("NVIDIA GeForce RTX 4090", WAN, clip(), 240, id="Wan 1.3B, about four minutes"),
        pytest.param("NVIDIA A800-SXM4-80GB", WAN, clip(), 189, id="Wan 1.3B"),
        pytest.param("NVIDIA H100 80GB HBM3", Networks("wan", WAN_14B, WAN_VAE), clip(), 488, id="Wan 14B"),
    ],
)
def test_an_estimate_is_near_what_others_published(
    card: str, networks: Networks, params: Params, published: float
) -> None:
    estimate = on(card, networks, params)
    seconds = sum(unit.seconds for unit in estimate.units if unit.part in {"text", "step", "decode"})
    assert (estimate.basis, estimate.card) == ("card", card)
    assert seconds == pytest.approx(published, rel=0.2)


def test_what_cannot_end_in_time_is_told_with_the_steps_that_could() -> None:
    """A 14B clip on an A100 is nineteen minutes of work."""
    fourteen = Networks("wan", WAN_14B, WAN_VAE)
    estimate = on("NVIDIA A100-SXM4-80GB", fourteen, clip())
    assert estimate.exceeds(540)
    assert estimate.seconds == pytest.approx(1140, rel=0.05)
    steps = estimate.steps_within(540, 50)
    assert not on("NVIDIA A100-SXM4-80GB", fourteen, clip(num_inference_steps=steps)).exceeds(540)
    assert on("NVIDIA A100-SXM4-80GB", fourteen, clip(num_inference_steps=steps + 1)).exceeds(540)
    assert not on("NVIDIA H200", fourteen, clip()).exceeds(900)


def test_nothing_is_refused_on_a_guess() -> None:
    estimate = on(None, WAN, clip())
    assert (estimate.basis, estimate.seconds) == ("guess", None)
    assert not estimate.exceeds(1)


def test_of_an_unknown_card_twice_the_limit_is_given_a_try_once_it_was_measured() -> None:
    estimate = Estimate((Unit("load", 1000), Unit("step", 150)), "measured")
    assert not estimate.exceeds(100)
    assert estimate.exceeds(70)


def test_weights_that_are_not_loaded_yet_are_no_reason_to_refuse() -> None:
    assert Estimate((Unit("load", 1000), Unit("step", 10)), "card").seconds == 10


class Ear:
    """A `Control` that records what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def report(self, progress: Progress) -> None:
        self.heard.append(progress)

    def raise_if_stopped(self) -> None:
        self.heard.append("asked")

    def untimed(self) -> AbstractContextManager[None]:
        self.heard.append("untimed")
        return contextlib.nullcontext()

    def warn(self, warning: str) -> None:
        self.heard.append(warning)

    def viewer(self) -> None:
        self.heard.append("looked")


def run_at(estimator: Estimator, networks: Networks, params: Params, *, step: float, decode: float) -> None:
    """Report a run that takes so many seconds for each step and for its decode."""
    now = 0.0
    watch = Stopwatch(Ear(), estimator.estimate(networks, params, from_image=False), lambda: now)
    steps = params.num_inference_steps
    for done in range(1, steps + 1):
        now += 100 if done == 1 else step  # the first step includes the prompt and the warm-up
        watch.report(Progress("generating", done, steps))
    for quarter in range(5):
        watch.report(Progress("generating", steps, steps, "decode", quarter / 4))
        now += decode / 4
    estimator.learn(networks.family, watch.measured, params)


def seconds(estimator: Estimator, networks: Networks, params: Params, part: str) -> float:
    units = estimator.estimate(networks, params, from_image=False).units
    return next(unit.seconds for unit in units if unit.part == part)


def test_what_a_step_cache_skips_makes_no_other_job_look_faster() -> None:
    estimator = Estimator()
    estimator.card = "NVIDIA A100-SXM4-80GB"
    cached = clip(step_cache=StepCache("first_block", 0.1))
    before = seconds(estimator, WAN, clip(), "step")
    for _ in range(8):
        run_at(estimator, WAN, cached, step=before / 2, decode=20.0)
    assert seconds(estimator, WAN, clip(), "step") == before
    assert seconds(estimator, WAN, cached, "step") == pytest.approx(before / 2, rel=0.05)
    run_at(estimator, WAN, clip(), step=before, decode=20.0)
    assert seconds(estimator, WAN, clip(), "step") == pytest.approx(before, rel=0.05)


def test_without_a_card_what_was_measured_counts() -> None:
    estimator = Estimator()
    run_at(estimator, WAN, clip(num_inference_steps=4), step=50.0, decode=20.0)
    assert seconds(estimator, WAN, clip(), "step") == pytest.approx(50)
    assert seconds(estimator, WAN, clip(), "decode") == pytest.approx(20)
    assert estimator.estimate(WAN, clip(), from_image=False).basis == "measured"
    assert estimator.estimate(SDXL, images(), from_image=False).basis == "guess"
    half = clip(guidance_scale=1.0)
    assert seconds(estimator, WAN, half, "step") == pytest.approx(25)


def test_a_cards_rates_are_corrected_by_half_of_what_was_measured_each_time() -> None:
    estimator = Estimator()
    estimator.card = "NVIDIA A100-SXM4-80GB"
    known = seconds(estimator, WAN, clip(), "step")
    run_at(estimator, WAN, clip(), step=2 * known, decode=10)
    assert seconds(estimator, WAN, clip(), "step") == pytest.approx(1.5 * known)
    run_at(estimator, WAN, clip(), step=2 * known, decode=10)
    assert seconds(estimator, WAN, clip(), "step") == pytest.approx(1.75 * known)


def test_one_run_in_bad_company_makes_no_known_card_ten_times_slower() -> None:
    estimator = Estimator()
    estimator.card = "NVIDIA A100-SXM4-80GB"
    known = seconds(estimator, WAN, clip(), "step")
    run_at(estimator, WAN, clip(), step=50 * known, decode=10)
    assert seconds(estimator, WAN, clip(), "step") <= 2 * known


def test_steps_that_are_mostly_overhead_teach_nothing() -> None:
    estimator = Estimator()
    small = images(width=64, height=64, num_inference_steps=4)
    demo = Networks("sdxl", json.loads((DEMO_MODELS / "sdxl" / "unet" / "config.json").read_text()), SDXL_VAE)
    run_at(estimator, demo, small, step=0.04, decode=0.0)
    assert estimator.estimate(demo, images(), from_image=False).basis == "guess"


def test_a_small_models_text_encoder_is_counted_as_small_as_it_is() -> None:
    """Its steps do not set the machine's speed: one measured on a busy machine let no later clip begin."""
    spec = ModelRegistry(load_settings(), cuda=False).spec(TaskType.TEXT2VIDEO)
    demo, estimator = Networks.of(spec), Estimator()
    assert demo is not None
    large, small = clip(width=512, height=512), clip(width=64, height=64, num_inference_steps=2, num_frames=5)
    run_at(estimator, demo, large, step=50 * seconds(estimator, demo, large, "step"), decode=0.0)
    estimate = estimator.estimate(demo, small, from_image=True)
    assert estimate.basis == "measured"
    assert not estimate.exceeds(60)
    assert text_encoder(UMT5_XXL) == pytest.approx(4.845 * TERA, rel=0.001)


def test_a_draft_and_its_second_pass_are_measured_each_against_its_own_steps() -> None:
    estimator = Estimator()
    params = clip(num_inference_steps=4, draft=Draft(416, 240, 0.5))
    units = estimator.estimate(WAN, params, from_image=False).units
    small, *_, large = [unit.seconds for unit in units if unit.part == "step"]
    now = 0.0
    watch = Stopwatch(Ear(), estimator.estimate(WAN, params, from_image=False), lambda: now)
    for done in range(1, 7):
        now += 3 * (small if done <= 4 else large)
        watch.report(Progress("generating", done, 6))
        if done == 4:
            watch.report(Progress("generating", 4, 6, "decode", 0.0))
            watch.report(Progress("generating", 4, 6, "decode", 1.0))
    took, expected = watch.measured["step"]
    assert took == pytest.approx(3 * expected)
    assert expected == pytest.approx(3 * small + large)


def test_the_stopwatch_hands_everything_on() -> None:
    ear = Ear()
    watch = Stopwatch(ear, None)
    progress = Progress("generating", 1, 2)
    watch.report(progress)
    watch.raise_if_stopped()
    watch.warn("slow")
    with watch.untimed():
        pass
    watch.viewer()
    assert ear.heard == [progress, "asked", "slow", "untimed", "looked"]
