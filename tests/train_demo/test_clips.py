"""What Wan's transformer is trained with comes to what its pipelines run it with."""

import dataclasses
import itertools
import random

import pytest
import torch
from worker.pipelines.places import DEMO_MODELS
from worker.pipelines.weights import read_json

from tools.train_demo import architecture, clips, tokens, transformer
from tools.train_demo.answers import Answers, Words
from tools.train_demo.prompts import held_out
from tools.train_demo.scenes import exact, paint


def test_attention_for_training_comes_to_the_pipelines_own_with_padded_words() -> None:
    torch.manual_seed(0)
    network = architecture.video_transformer().eval()
    latents = torch.randn(2, architecture.VIDEO_LATENT_CHANNELS, 3, 6, 8)
    words = torch.randn(2, 11, architecture.VIDEO_TEXT_WIDTH)
    words[:, -1] = 0
    steps = torch.tensor([300.0, 900.0])
    padded = torch.nn.functional.pad(words, (0, 0, 0, 512 - words.shape[1]))
    with torch.no_grad():
        (own,) = network(latents, steps, padded, return_dict=False)
        Answers(network)
        (quick,) = network(latents, steps, words, return_dict=False)
    torch.testing.assert_close(quick, own, rtol=1e-4, atol=1e-5)


def test_frames_that_are_taken_of_a_clip_keep_their_rotary_positions() -> None:
    answers = Answers(architecture.video_transformer())
    whole, some = torch.empty(1, 1, 9, 4, 6), torch.empty(1, 1, 4, 4, 6)
    of_all = answers._rotary(whole)
    answers._rotary.at = [0, 2, 5, 8]
    for part, full in zip(answers._rotary(some), of_all, strict=True):
        torch.testing.assert_close(part.unflatten(1, (4, -1)), full.unflatten(1, (9, -1))[:, [0, 2, 5, 8]])


def test_some_frames_are_taken_of_more_clips_with_all_that_is_known_of_them(kept: clips.Clips) -> None:
    rng = random.Random(3)
    some = kept.look(rng, loose=True, taken=4)
    assert len(some.at) == 4
    assert (some.at[0], some.at[-1]) == (0, 4)
    assert some.at == sorted(set(some.at))
    assert some.latents.shape[:3] == (len(some.scenes), architecture.VIDEO_LATENT_CHANNELS, 4)
    for scene, touched in zip(some.scenes, some.touched[:, 0], strict=True):
        pixels = paint([scene], 112, 192, 17)[0, [4 * latent for latent in some.at]]
        blocks = ((pixels - pixels[..., :1, :1]).abs().amax(1) > 0.01).reshape(4, 14, 8, 24, 8).any(4).any(2)
        assert (touched | ~blocks).all(), "the last of a latent's frames, and maybe more, touch it"


def test_the_shipped_scheduler_takes_what_the_transformer_is_trained_to_say() -> None:
    shipped = read_json(DEMO_MODELS / "wan" / "scheduler" / "scheduler_config.json")
    assert shipped["prediction_type"] == architecture.video_scheduler().config.prediction_type == "sample"


@pytest.fixture
def kept() -> clips.Clips:
    return clips.Clips(clips.Bucket(17, 112, 192, kept=6, fresh=1.5, batch=6, share=(1.0, 1.0, 1.0)))


def test_a_latent_is_touched_where_its_pixels_are_not_all_the_ground(kept: clips.Clips) -> None:
    seen = kept.look(random.Random(0), loose=True)
    assert seen.latents.shape == (6, architecture.VIDEO_LATENT_CHANNELS, 5, 14, 24)
    assert seen.touched.shape == (6, 1, 5, 14, 24)
    for scene, touched in zip(seen.scenes, seen.touched[:, 0], strict=True):
        pixels = paint([scene], 112, 192, 17)[0]
        blocks = ((pixels - pixels[..., :1, :1]).abs().amax(1) > 0.01).reshape(17, 14, 8, 24, 8).any(4).any(2)
        assert torch.equal(touched[0], blocks[0]), "the first latent is the first frame alone"
        assert torch.equal(touched[1:], blocks[1:].reshape(4, 4, 14, 24).any(1)), "the others are four frames each"


def test_the_cover_of_a_cell_is_the_part_of_its_pixels_that_are_the_shape(kept: clips.Clips) -> None:
    seen = kept.look(random.Random(1), loose=True)
    assert seen.cover.shape == (6, 4, 5, 28, 48)
    for scene, cover in zip(seen.scenes, seen.cover, strict=True):
        # A white shape on black is its own cover; the first latent is the first frame alone, the others are four each.
        white = paint([dataclasses.replace(scene, colour="white", background="black")], 112, 192, 17)[0, :, 0]
        black, most = white.min(), white.max()
        cells = ((white - black) / (most - black)).reshape(17, 28, 4, 48, 4).mean((2, 4))
        torch.testing.assert_close(cover[:, 0], cells[:1].expand(4, -1, -1), rtol=0, atol=2e-3)
        torch.testing.assert_close(cover[:, 1:], cells[1:].reshape(4, 4, 28, 48).transpose(0, 1), rtol=0, atol=2e-3)


def test_cells_are_asked_of_the_tokens_that_they_lie_in() -> None:
    cover = torch.arange(4 * 2 * 8 * 12.0).reshape(1, 4, 2, 8, 12)
    each = tokens.by_token(cover, rows=2, columns=3)
    assert each.shape == (1, 2 * 2 * 3, 4 * 16)
    assert torch.equal(each[0, 6 + 3 + 1], cover[0, :, 1, 4:, 4:8].flatten())


def test_shapes_begin_loosely_only_where_a_first_frame_is_given() -> None:
    kept = clips.Clips(clips.Bucket(5, 64, 64, kept=400, fresh=2.0, batch=200, share=(1.0, 1.0, 1.0)))
    rng = random.Random(0)
    assert all(exact(scene) for _ in range(5) for scene in kept.look(rng).scenes)
    loose = [not exact(scene) for _ in range(5) for scene in kept.look(rng, loose=True).scenes]
    assert 0.25 < sum(loose) / len(loose) < 0.4


def test_every_look_at_a_clip_has_other_colours_and_none_that_are_held_out() -> None:
    one = clips.Clips(clips.Bucket(1, 32, 32, kept=1, fresh=0, batch=1, share=(1.0, 1.0, 1.0)))
    (seen,) = zip(*(one.look(random.Random(look), loose=True).scenes for look in range(60)), strict=True)
    assert len({(scene.colour, scene.background) for scene in seen}) > 30
    assert len({(scene.shape, scene.x, scene.y, scene.radius) for scene in seen}) == 1
    assert not any(held_out(scene) for scene in seen)


def test_where_moving_is_trained_most_clips_move_and_many_turn() -> None:
    of_one_frame = clips.Bucket(1, 32, 48, kept=1000, fresh=0, batch=1, share=(1.0, 1.0, 1.0))
    motions = [scene.motion for scene in clips.Clips(of_one_frame, clips.MOVING_MOST)._scenes]
    moved = sum(motion in ("left", "right", "up", "down") for motion in motions)
    assert 0.5 < moved / len(motions) < 0.7
    assert 0.2 < motions.count("turns") / len(motions) < 0.4


def test_clips_are_seen_on_their_way_where_only_that_is_taken() -> None:
    bucket = clips.Bucket(81, 32, 48, kept=60, fresh=0, batch=0.7, share=(1.0, 1.0, 1.0))
    rng = random.Random(0)
    moving = clips.Clips(bucket, clips.MOVING_MOST)
    for _ in range(5):
        at = moving.look(rng, loose=True, taken=7, before=13).at
        assert (len(at), at[0], at[-1]) == (7, 0, 20)
        assert max(at[:-1]) < 13


def test_as_many_clips_as_asked_for_are_drawn_anew_on_the_average(kept: clips.Clips) -> None:
    batches = []
    for look in range(24):
        kept.look(random.Random(look))
        batches.append({id(scene): scene for scene in kept._scenes})
    new = [len(after.keys() - before.keys()) for before, after in itertools.pairwise(batches)]
    assert set(new) == {1, 2}
    assert sum(new) / len(new) == pytest.approx(1.5, abs=0.5)


def test_a_border_is_the_first_and_the_last_of_frames_rows_and_columns() -> None:
    borders = tokens.borders(3, 4, 5).reshape(3, 4, 5, 6)
    assert borders[0, 0, 0].tolist() == [1, 0, 1, 0, 1, 0]
    assert borders[2, 3, 4].tolist() == [0, 1, 0, 1, 0, 1]
    assert borders[1, 1:3, 1:4].sum() == 0
    assert tokens.borders(1, 4, 5)[:, :2].all(), "a single frame is first and last"


def test_every_place_of_a_clip_is_another() -> None:
    places = tokens.places(range(21), 7, 12)
    assert places.shape == (21 * 7 * 12, 8)
    assert len({tuple(place) for place in places.tolist()}) == len(places)
    assert places[:, :3].std(0).min() > 0.5, "time is asked for as loudly as rows and columns"
    turns = places.reshape(21, 7, 12, 8)[:, 0, 0, 7]
    torch.testing.assert_close(turns[2:], turns[:-2], msg="a turning shape looks the same after two latents")
    assert (turns[1:] - turns[:-1]).abs().min() > 1, "and not after one"


@pytest.mark.parametrize("given", [False, True], ids=["text", "first frame given"])
def test_right_answers_lead_from_pure_noise_to_the_noisy_clip_of_the_level(
    monkeypatch: pytest.MonkeyPatch, *, given: bool
) -> None:
    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"transformer": architecture.video_transformer()})
    loss = transformer._Loss(DEMO_MODELS / "wan", network)
    latents, levels = (
        torch.randn(2, architecture.VIDEO_LATENT_CHANNELS, 5, 14, 24),
        torch.tensor([0.4, 0.9]).view(2, 1, 1, 1, 1),
    )
    if given:
        levels = levels.repeat(1, 1, 5, 1, 1)
        levels[:, :, 0] = 0

    def right(noisy: torch.Tensor, at: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        assert len(noisy) == len(at) == len(words), "guidance asks twice"
        if given:
            assert torch.equal(noisy[:2, :, 0], latents[:, :, 0])
            assert (at[:, :, 0] == 0).all()
        return latents.repeat(len(noisy) // 2, 1, 1, 1, 1)

    monkeypatch.setattr(Answers, "__call__", lambda _, *asked, at: right(*asked))
    seen = clips.Look(latents, latents[:, :1] > 0, latents[:, :1], [], at=list(range(5)))
    words = Words(DEMO_MODELS / "wan").encode(["a red star on blue", "a small circle"])
    for seed in range(8):
        noisy = loss._from_own_answers(seen, levels, words, random.Random(seed))
        noise = (noisy - (1 - levels) * latents)[:, :, int(given) :] / levels[:, :, int(given) :]
        assert noise.flatten(1).std(1).tolist() == pytest.approx([1, 1], abs=0.03)
        if given:
            assert torch.equal(noisy[:, :, 0], latents[:, :, 0])
