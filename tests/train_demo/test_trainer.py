"""A stage goes on where it was stopped, and what has ended is not trained again."""

import random
from pathlib import Path

import pytest
import torch

from tools.train_demo import trainer

STEPS = 12


class Stopped(Exception):
    pass


def trained(work: Path, *, stop_at: int | None = None, seen: list[int] | None = None) -> dict[str, torch.Tensor]:
    """The weights of a small network, after a run that is perhaps stopped in one of its steps."""
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))

    def loss_of(rng: random.Random, step: int) -> torch.Tensor:
        if step == stop_at:
            raise Stopped
        if seen is not None:
            seen.append(step)
        batch = torch.randn(16, 4) + rng.random()
        loss: torch.Tensor = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        return loss

    work.mkdir(exist_ok=True)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    trainer.fit("small", model, loss_of, steps=STEPS, rate=1e-2, work=work, warmup=3, matrices=matrices)
    return model.state_dict()


def test_a_run_that_was_stopped_comes_to_what_an_unbroken_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trainer, "_SAVE_EVERY", -1.0)  # after every step
    unbroken = trained(tmp_path / "unbroken")
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", stop_at=7)
    seen: list[int] = []
    gone_on = trained(tmp_path / "stopped", seen=seen)
    assert seen == list(range(7, STEPS))
    torch.testing.assert_close(gone_on, unbroken, rtol=0, atol=0)


def test_what_has_ended_is_loaded_and_not_trained_again(tmp_path: Path) -> None:
    once = trained(tmp_path / "work")
    again = trained(tmp_path / "work", stop_at=0)
    torch.testing.assert_close(again, once, rtol=0, atol=0)
