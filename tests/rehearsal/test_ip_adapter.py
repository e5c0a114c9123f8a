"""Pictures beside the prompt on an imaginary card: dtypes, devices, moves, and working memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rehearsal.card import GIB
from tests.rehearsal.conftest import ROWS
from tests.rehearsal.jobs import Row, params_of, rehearsal, request_for, room_of
from tests.rehearsal.models import REFINED_SDXL, SDXL, write_ip_adapter
from worker.api.params import ReferenceParams
from worker.core.types import TaskType
from worker.engine.memory.footprint import spec_bytes
from worker.engine.memory.placement import set_aside
from worker.engine.memory.room import Size

TWO = (ReferenceParams("subject", 0.6), ReferenceParams("style", 1.0))
T2I = TaskType.TEXT2IMG
Record = Callable[[str, object], None]


@pytest.mark.parametrize(
    ("gib", "alone", "mode"),
    [(80, "resident", "resident"), (3.4, "resident", "partly"), (2.2, "offloaded", "offloaded")],
)
def test_an_adapter_comes_once_a_job_and_is_gone_before_the_unet_works(
    gib: float, alone: str, mode: str, tmp_path: Path, record_property: Record
) -> None:
    model, size = SDXL.shallow(), {"width": 512, "height": 512, "num_inference_steps": 3}
    adapter = write_ip_adapter(tmp_path / "adapter", model)
    with rehearsal(tmp_path, model, gib=gib, ip_adapter=adapter) as stage:
        plain = stage.run(T2I, **size)
        before = (plain.placement.mode, stage.card.now, stage.card.peak, stage.card.up)
        networks = spec_bytes(stage.engine.registry.spec(T2I, None, request_for(T2I, ip_adapters=TWO)), cuda=True)
        run = stage.run(T2I, **size, ip_adapters=TWO)
        assert (plain.placement.mode, run.placement.mode) == (alone, mode)
        assert run.calls["ip_adapter"] == 4, "each picture, and beside it none"
        assert run.weights == stage.card.now
        assert run.step == plain.step, "the host waits for nothing else"
        assert run.warnings == []
        comes = sum(networks[name] for name in set_aside(networks, run.placement.mode))
        assert comes <= stage.card.up <= comes + 4 * 2**20, "each of them once"
        estimate = room_of(stage, T2I, **size)
        said = f"SDXL 512x512, two references, {mode}"
        text = Row(said, "text", run.beside_weights("text") - networks["ip_adapter"], estimate.text, 0)
        record_property(ROWS, str(text))
        assert text.right, text
        again = stage.run(T2I, **size)
        assert (again.placement.mode, stage.card.now, stage.card.peak, stage.card.up) == before


def test_an_adapter_at_full_size_fits_beside_sdxl_with_its_refiner(tmp_path: Path) -> None:
    """16 GB, of which CUDA takes half a GiB: a job with the adapter fits where one without it does."""
    adapter = write_ip_adapter(tmp_path / "adapter", SDXL)
    size = {"width": 1024, "height": 1024}
    with rehearsal(tmp_path, REFINED_SDXL, gib=15.2, ip_adapter=adapter) as stage:
        spec = stage.engine.registry.spec(T2I, None, request_for(T2I, ip_adapters=TWO))
        assert spec_bytes(spec, cuda=True)["ip_adapter"] / GIB == pytest.approx(2.0, rel=0.1)
        asked = Size.of(T2I, params_of(T2I, **size))
        placed = stage.engine._cache.decide(spec, asked)
        assert placed.mode == stage.engine._cache.decide(stage.spec(T2I), asked).mode == "resident"
