"""Attention backends: what a card gets, a warning for an unavailable one, and nothing that outlives a job."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers.models import attention_dispatch as dispatch

from tests.engine.conftest import engine_of, runner
from tests.support.engine_jobs import Recorder
from worker import doctor
from worker.core.config import Settings
from worker.core.errors import Cancelled
from worker.core.types import Attention
from worker.engine.engine import Engine
from worker.engine.models.checkpoint import read_json
from worker.engine.models.hub import DEMO_MODELS
from worker.engine.speed import attention as module
from worker.engine.speed.attention import attention, cudnn_runs, flash_3, missing

CARD = torch.device("cuda")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _tried_anew() -> Iterator[None]:
    for tried in (flash_3, cudnn_runs):
        tried.cache_clear()
    yield
    for tried in (flash_3, cudnn_runs):
        tried.cache_clear()


def installed(monkeypatch: pytest.MonkeyPatch, factor: float = 1.0) -> list[int]:
    """Pretend that the package is installed; it records its calls, and returns torch's own result times `factor`."""
    calls: list[int] = []

    def kernel(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **_: Any) -> torch.Tensor:
        calls.append(1)
        own = dispatch.AttentionBackendName.NATIVE
        result: torch.Tensor = factor * dispatch.dispatch_attention_fn(query, key, value, backend=own)
        return result

    monkeypatch.setattr(dispatch, "_CAN_USE_FLASH_ATTN_3", True)
    backends = dispatch._AttentionBackendRegistry._backends
    monkeypatch.setitem(backends, dispatch.AttentionBackendName._FLASH_3, kernel)
    return calls


def engine_with(settings: Settings, wanted: Attention) -> Engine:
    return engine_of(settings, attention=wanted)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Record the first backend of each order passed to torch."""
    orders: list[tuple[Any, bool]] = []

    def told(order: list[Any], *, set_priority: bool) -> contextlib.AbstractContextManager[None]:
        orders.append((order[0], set_priority))
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", told)
    return orders


@pytest.mark.parametrize(
    ("wanted", "clip", "major", "first"),
    [
        ("auto", True, 8, False),
        ("auto", True, 9, True),
        ("auto", True, 10, True),
        ("auto", True, 12, False),
        ("auto", False, 9, False),
        ("native", True, 9, False),
        ("cudnn", True, 8, True),
        ("cudnn", False, 8, True),
        ("flash3", False, 9, False),
    ],
)
def test_cudnns_comes_first_where_it_is_fastest_or_asked_for(
    wanted: Attention, clip: bool, major: int, first: bool, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "cudnn_runs", lambda _: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (major, 0))
    with attention(wanted, CARD, clip=clip):
        pass
    assert asked == ([(torch.nn.attention.SDPBackend.CUDNN_ATTENTION, True)] if first else [])


def test_where_there_is_no_flash_attention_3_a_clip_runs_as_with_auto(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(module, "flash_3", lambda _: None)
    monkeypatch.setattr(module, "cudnn_runs", lambda _: True)
    with attention("flash3", CARD, clip=True):
        pass
    assert len(asked) == 1


@pytest.mark.parametrize("wanted", ["auto", "cudnn"])
def test_where_cudnns_does_not_run_a_clip_runs_in_torchs_own_way(
    wanted: Attention, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setattr(module, "cudnn_runs", lambda _: False)
    with attention(wanted, CARD, clip=True):
        pass
    assert asked == []


def test_cudnns_is_tried_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the card: it has no cuDNN, and fails as a card does that cannot build its kernels."""
    assert not cudnn_runs(CPU)
    orders: list[tuple[Any, bool]] = []

    def told(order: list[Any], *, set_priority: bool) -> contextlib.AbstractContextManager[None]:
        orders.append((order, set_priority))
        return contextlib.nullcontext()

    monkeypatch.setattr(torch.nn.attention, "sdpa_kernel", told)
    cudnn_runs.cache_clear()
    assert cudnn_runs(CPU)
    assert orders == [([torch.nn.attention.SDPBackend.CUDNN_ATTENTION], True)]


@pytest.mark.parametrize("wanted", ["native", "cudnn", "flash3"])
def test_without_a_card_every_way_is_torchs_own_and_is_said_to_be(
    wanted: Attention, demo_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    plain, other = engine_with(demo_settings, "auto"), engine_with(demo_settings, wanted)
    for task in ("text2img", "text2video"):
        assert np.array_equal(runner(plain)(task)[0], runner(other)(task)[0])
    with caplog.at_level(logging.WARNING):
        other.health()
    said = [record.getMessage() for record in caplog.records if "ATTENTION" in record.getMessage()]
    assert said == ([] if wanted == "native" else [f"ATTENTION={wanted} is for a GPU: torch's own way runs"])
    settings = demo_settings.model_copy(update={"attention": wanted})
    (row,) = doctor.attention(settings, other.registry)
    assert row.state == ("ok" if wanted == "native" else "warn")
    assert list(doctor.attention(demo_settings, other.registry)) == []


def test_what_is_missing_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "flash_3", lambda _: None)
    monkeypatch.setattr(module, "cudnn_runs", lambda _: False)
    assert "does not run here" in str(missing("flash3", cuda=True))
    assert "does not run here" in str(missing("cudnn", cuda=True))
    monkeypatch.setattr(module, "flash_3", lambda _: "_flash_3")
    monkeypatch.setattr(module, "cudnn_runs", lambda _: True)
    assert [missing(wanted, cuda=True) for wanted in get_args(Attention)] == [None] * 4


def test_what_is_not_installed_is_not_taken_and_what_is_installed_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands in for the card, and torch's own backend for FlashAttention 3."""
    monkeypatch.setattr(module, "_is_card", lambda _: True)
    assert flash_3(CPU) is None
    flash_3.cache_clear()
    installed(monkeypatch)
    assert flash_3(CPU) == "_flash_3"


def test_one_that_computes_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_is_card", lambda _: True)
    installed(monkeypatch, factor=1.5)
    assert flash_3(CPU) is None


def test_it_reaches_every_attention_of_a_clip_and_none_of_a_picture_and_is_gone_afterwards(
    demo_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner(engine_with(demo_settings, "flash3"))
    (plain,), (picture,) = run("text2video"), run("text2img")
    monkeypatch.setattr(module, "_is_card", lambda _: True)
    calls = installed(monkeypatch)
    flash_3.cache_clear()
    before = dispatch._AttentionBackendRegistry._active_backend
    (clip,) = run("text2video")
    blocks = read_json(DEMO_MODELS / "wan" / "transformer" / "config.json")["num_layers"]
    steps, guided, both = 2, 2, 2  # a block attends to the clip and to the text
    assert len(calls) == 1 + steps * guided * both * blocks  # one to try it
    assert np.array_equal(plain, clip)
    assert dispatch._AttentionBackendRegistry._active_backend == before
    with pytest.raises(Cancelled):
        run("text2video", control=Recorder(cancel_at=1))
    assert dispatch._AttentionBackendRegistry._active_backend == before
    calls.clear()
    assert np.array_equal(picture, run("text2img")[0])
    assert calls == []
