"""A long prompt is read whole, with its weights; a prompt of one chunk gives the pipeline's own result, to the bit."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline, StableDiffusionXLPipeline

from tests.support.engine_jobs import Recorder, image_params, video_params
from worker.api.params import ImageParams
from worker.api.prompt_weights import plain, weighted
from worker.core.errors import Cancelled
from worker.core.types import Sources, TaskType
from worker.engine.engine import Engine
from worker.engine.families.sdxl import SdxlJob
from worker.engine.families.wan import WanJob
from worker.engine.prompt import clip, umt5
from worker.engine.prompt.chunks import chunked

CPU = torch.device("cpu")
LONG = ", ".join(f"a red circle on a blue square beside a green star number {k}" for k in range(12))
SENTENCES = "A red circle moves over a blue square. " * 70


@pytest.fixture(scope="module")
def engine(demo_settings: Any) -> Iterator[Engine]:
    engine = Engine(demo_settings)
    engine.preload([TaskType.TEXT2IMG, TaskType.TEXT2VIDEO], Recorder())
    yield engine
    engine.unload()


@pytest.fixture(scope="module")
def sdxl(engine: Engine) -> Any:
    return engine._cache[engine.registry.spec(TaskType.TEXT2IMG)].parts


@pytest.fixture(scope="module")
def wan(engine: Engine) -> Any:
    return engine._cache[engine.registry.spec(TaskType.TEXT2VIDEO)].parts


@pytest.fixture
def base(sdxl: Any) -> Any:
    return SdxlJob(sdxl, CPU, image_params(), Sources(), Recorder())._pipeline(StableDiffusionXLPipeline)


@pytest.fixture
def refiner(sdxl: Any) -> Any:
    return SdxlJob(sdxl, CPU, image_params(), Sources(), Recorder())._pipeline(
        StableDiffusionXLImg2ImgPipeline, refiner=True
    )


def image(parts: Any, **changes: Any) -> Any:
    return next(SdxlJob(parts, CPU, image_params(**changes), Sources(), Recorder()).run()).pixels


def clip_of(parts: Any, **changes: Any) -> Any:
    return next(WanJob(parts, CPU, video_params(**changes), Sources(), Recorder()).run()).frames


def encoded(*args: Any, **options: Any) -> Any:
    return clip.embeddings(*args, **options)


def encoded_clip(*args: Any, **options: Any) -> Any:
    return umt5.embeddings(*args, **options)


def tokens(*words: str) -> Any:
    """Return a tokenizer with one token per word, named as CLIP names them."""

    def tokenizer(text: str, **_: object) -> Any:
        return SimpleNamespace(input_ids=[words.index(word) for word in text.split()])

    tokenizer.convert_ids_to_tokens = lambda ids: [words[token] for token in ids]  # type: ignore[attr-defined]  # as one
    return tokenizer


# --- Chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("a</w> b</w> c</w>", 3, [3]),
        ("a</w> b</w> c</w>", 2, [2, 1]),
        ("a</w> ,</w> b</w> c</w>", 3, [2, 2]),
        ("a</w> x y</w> b</w>", 2, [1, 2, 1]),
        ("x x x x y</w>", 2, [2, 2, 1]),
        ("", 3, [0]),
    ],
)
def test_a_prompt_is_cut_at_a_comma_else_between_words(text: str, most: int, expected: list[int]) -> None:
    words = tokens("a</w>", "b</w>", "c</w>", ",</w>", "x", "y</w>")
    assert [len(chunk.ids) for chunk in chunked(words, plain(text), most)] == expected


def test_a_comma_far_from_the_end_ends_no_chunk() -> None:
    words = tokens("a</w>", ",</w>")
    text = " ".join(["a</w>", ",</w>", *["a</w>"] * 40])
    assert [len(chunk.ids) for chunk in chunked(words, plain(text), 30)] == [30, 12]


def test_every_token_of_a_prompt_is_in_a_chunk_with_its_weight(sdxl: Any, wan: Any) -> None:
    for tokenizer, most in ((sdxl.tokenizer_2, 75), (wan.tokenizer, 511)):
        found = chunked(tokenizer, plain(LONG * 3), most)
        whole = tokenizer(LONG * 3, add_special_tokens=False).input_ids
        assert [token for chunk in found for token in chunk.ids] == whole
        assert all(0 < len(chunk.ids) <= most for chunk in found)
    (heavy,) = chunked(sdxl.tokenizer_2, weighted("a (red:1.5) star"), 75)
    assert sorted(set(heavy.weights)) == [1.0, 1.5]


# --- SDXL ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("negative", [None, "", "blue, grey"])
@pytest.mark.parametrize("guided", [True, False])
def test_what_fits_into_one_chunk_is_the_pipelines_own(
    base: Any, refiner: Any, negative: str | None, guided: bool
) -> None:
    for pipeline in (base, refiner):
        given = encoded(
            pipeline, CPU, plain("a red circle"), None if negative is None else plain(negative), guided=guided
        )
        own = pipeline.encode_prompt(
            "a red circle", negative_prompt=negative, do_classifier_free_guidance=guided, device=CPU
        )
        for ours, theirs in zip(given.values(), own, strict=True):
            assert (ours is None) == (theirs is None)
            assert ours is None or torch.equal(ours, theirs)


def test_a_long_prompt_has_its_chunks_one_after_the_other(base: Any) -> None:
    given = encoded(base, CPU, plain(LONG), plain("blue"), guided=True)
    count = len(chunked(base.tokenizer_2, plain(LONG), 75))
    assert count > 2
    for name in ("prompt_embeds", "negative_prompt_embeds"):
        assert given[name].shape[:2] == (1, 77 * count)
    first = encoded(base, CPU, plain("blue"), None, guided=False)["prompt_embeds"]
    torch.testing.assert_close(given["negative_prompt_embeds"][:, :77], first)


def test_no_negative_prompt_stays_what_the_model_was_trained_with(base: Any, refiner: Any) -> None:
    given = encoded(base, CPU, plain(LONG), None, guided=True)
    for name in ("negative_prompt_embeds", "negative_pooled_prompt_embeds"):
        assert not given[name].any()
    assert given["negative_prompt_embeds"].shape == given["prompt_embeds"].shape
    given = encoded(refiner, CPU, plain(LONG), plain(""), guided=True)
    assert given["negative_prompt_embeds"].any()


def test_the_last_word_of_a_long_prompt_counts(sdxl: Any) -> None:
    for options in ({}, {"high_noise_frac": 0.5, "refiner_inference_steps": 4, "num_inference_steps": 4}):
        one, other = (image(sdxl, prompt=f"{LONG}, {colour}", **options) for colour in ("red", "blue"))
        assert (one != other).any()


def test_a_long_negative_prompt_counts_to_its_end(sdxl: Any) -> None:
    one, other = (image(sdxl, negative_prompt=f"{LONG}, {colour}") for colour in ("red", "blue"))
    assert (one != other).any()


def test_the_more_a_word_weighs_the_more_of_it_there_is(base: Any) -> None:
    def states(weight: float) -> Any:
        return encoded(base, CPU, weighted(f"a (red:{weight}) star"), None, guided=False)["prompt_embeds"]

    plainly = encoded(base, CPU, plain("a red star"), None, guided=False)["prompt_embeds"]
    assert torch.equal(states(1.0), plainly)
    moved = [float((states(weight) - plainly).norm()) for weight in (1.1, 1.5, 2.0, 4.0)]
    assert moved == sorted(moved)
    assert moved[0] > 0
    others = (states(2.0) == plainly).all(-1)
    assert others.sum() == 77 - len(base.tokenizer_2("red", add_special_tokens=False).input_ids)


def test_a_word_of_no_weight_is_as_good_as_no_word(base: Any) -> None:
    weightless = encoded(base, CPU, weighted("(red:0)"), None, guided=False)["prompt_embeds"]
    nothing = encoded(base, CPU, plain(""), None, guided=False)["prompt_embeds"]
    count = len(base.tokenizer_2("red", add_special_tokens=False).input_ids)
    torch.testing.assert_close(weightless[:, : 1 + count], nothing[:, : 1 + count])


def test_weights_and_brackets_reach_the_picture_only_where_they_are_asked_for(sdxl: Any) -> None:
    prompt = "a (red:1.6) circle"
    pictures = [
        image(sdxl, prompt="a red circle"),
        image(sdxl, prompt=prompt, prompt_weighting=True),
        image(sdxl, prompt=prompt),
        image(sdxl, prompt="a red circle", prompt_weighting=True),
    ]
    assert (pictures[0] == pictures[3]).all()
    assert all((pictures[0] != other).any() for other in pictures[1:3])
    assert (pictures[1] != pictures[2]).any()


def test_break_puts_what_follows_into_a_chunk_of_its_own(base: Any) -> None:
    given = encoded(base, CPU, weighted("a red star BREAK a blue square"), None, guided=True)
    assert given["prompt_embeds"].shape[1] == 154
    alone = encoded(base, CPU, plain("a blue square"), None, guided=True)["prompt_embeds"]
    torch.testing.assert_close(given["prompt_embeds"][:, 77:], alone)


def test_a_models_own_negative_prompt_has_no_weights() -> None:
    params = image_params(negative_prompt="(bad)", negative_prompt_of="model", prompt_weighting=True)
    assert isinstance(params, ImageParams)
    assert params.unwanted == plain("(bad)")


# --- Wan -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def video(wan: Any) -> Any:
    return WanJob(wan, CPU, video_params(), Sources(), Recorder())._pipeline()


@pytest.mark.parametrize("guided", [True, False])
def test_a_clips_prompt_of_one_chunk_is_the_pipelines_own(video: Any, guided: bool) -> None:
    given = encoded_clip(video, CPU, plain("a red  circle"), plain("blue"), guided=guided, most_chunks=None)
    own = video.encode_prompt(
        "a red  circle", "blue", do_classifier_free_guidance=guided, max_sequence_length=512, device=CPU
    )
    for ours, theirs in zip(given.values(), own, strict=True):
        assert ours is theirs is None or torch.equal(ours, theirs)


def test_a_clips_long_prompt_is_read_to_its_end(wan: Any, video: Any) -> None:
    given = encoded_clip(video, CPU, plain(SENTENCES), plain("blue"), guided=True, most_chunks=None)
    count = len(umt5.chunks_of(wan.tokenizer, plain(SENTENCES)))
    assert count > 1
    assert all(embeds is not None and embeds.shape[1] == 512 * count for embeds in given.values())
    one, other = (clip_of(wan, prompt=f"{SENTENCES} {colour}") for colour in ("red", "blue"))
    assert (one != other).any()


def test_weights_count_in_a_clips_prompt(video: Any, wan: Any) -> None:
    plainly, heavy = (
        encoded_clip(video, CPU, read, plain(""), guided=False, most_chunks=None)["prompt_embeds"]
        for read in (plain("a red star"), weighted("a (red:2) star"))
    )
    assert plainly is not None
    assert heavy is not None
    torch.testing.assert_close(heavy.norm(dim=-1).max() > plainly.norm(dim=-1).max(), torch.tensor(True))
    assert (clip_of(wan, prompt="a (red:3) star", prompt_weighting=True) != clip_of(wan, prompt="a red star")).any()


def test_a_model_that_takes_one_chunk_alone_says_what_it_leaves_out(wan: Any) -> None:
    control = Recorder()
    job = WanJob(wan, CPU, video_params(prompt=SENTENCES), Sources(), control)
    job._parts = SimpleNamespace(image_encoder=object(), tokenizer=wan.tokenizer)  # type: ignore[assignment]  # of one
    job._warn_of_cut_prompts()
    (said,) = control.warnings
    assert said.startswith("prompt: this model reads 512 tokens; the last ")


def test_a_job_can_be_stopped_while_a_long_prompt_is_read(base: Any, wan: Any) -> None:
    """4,000 rare letters are 214 chunks of SDXL, for two encoders and two prompts."""
    asked = list[None]()

    def stop() -> None:
        asked.append(None)
        if len(asked) == 3:
            raise Cancelled

    with pytest.raises(Cancelled):
        encoded(base, CPU, plain(LONG * 3), None, guided=False, raise_if_stopped=stop)
    asked.clear()
    pipeline = WanJob(wan, CPU, video_params(), Sources(), Recorder())._pipeline()
    with pytest.raises(Cancelled):
        encoded_clip(
            pipeline, CPU, plain(SENTENCES * 4), plain(""), guided=False, most_chunks=None, raise_if_stopped=stop
        )
    assert len(asked) == 3
