"""Weights baked in bfloat16 equal those that the worker would have converted."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.model_folders import registry
from tools.bake_models import KEPT_WIDE, main, narrow
from worker.core.types import TaskType
from worker.engine.models.hub import DEMO_MODELS, Place


@pytest.mark.slow
def test_wan_in_bfloat16_is_smaller_and_loads_the_same_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import WanTransformer3DModel

    from tests.support import published
    from tests.support.engine_jobs import Recorder
    from worker.engine.models.loader import Loader

    def state() -> dict[str, Any]:
        models = registry(cuda=False, where=(Place(tmp_path, "plain"),), wan_model=published.T2V_A14B)
        parts = Loader(models.spec(TaskType.TEXT2VIDEO), cuda=True, control=Recorder()).load()
        networks = parts.modules().items()
        return {f"{name}.{key}": value for name, net in networks for key, value in net.state_dict().items()}

    def size() -> int:
        return sum(path.stat().st_size for path in folder.glob("t*/*.safetensors"))

    kept: Any = WanTransformer3DModel._keep_in_fp32_modules
    assert set(kept) == KEPT_WIDE
    folder = published.miniature(published.T2V_A14B, DEMO_MODELS, tmp_path)
    before, large = state(), size()
    monkeypatch.setattr(sys, "argv", ["bake_models.py", "--bfloat16", str(folder)])
    main()
    after = state()
    assert size() < 0.6 * large
    assert set(after) == set(before)
    assert all((after[name] == before[name]).all() and after[name].dtype == before[name].dtype for name in before)


@pytest.mark.slow
def test_only_wan_is_written_in_bfloat16(tmp_path: Path) -> None:
    """A folder without an index, or of SDXL, runs in other dtypes."""
    from tests.support import published

    folders = [published.miniature(name, DEMO_MODELS, tmp_path) for name in (published.SDXL_BASE, published.SDXL_VAE)]
    paths = [path for folder in folders for path in folder.rglob("*.safetensors")]
    before = [path.read_bytes() for path in paths]
    for folder in folders:
        narrow(folder)
    assert [path.read_bytes() for path in paths] == before
