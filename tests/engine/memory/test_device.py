"""The log's facts about a card: its versions, by which a fault can be looked up, and the machine's memory."""

from pathlib import Path

import pytest

from worker.engine.memory.device import Gpu, _container_limit, driver_version


def test_a_card_and_all_versions_that_drive_it_are_one_line() -> None:
    card = Gpu("NVIDIA L40S", 45 * 2**30, "580.95.05", "2.13.0+cu130", "13.0", "91501")
    assert str(card) == "NVIDIA L40S, 45.0 GiB, driver 580.95.05, torch 2.13.0+cu130, CUDA 13.0, cuDNN 91501"


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\n", "580.95.05"),
        ("something else\n", "unknown"),
    ],
)
def test_the_driver_is_told_by_the_kernel(said: str, version: str, tmp_path: Path) -> None:
    (tmp_path / "version").write_text(said)
    assert driver_version(tmp_path / "version") == version
    assert driver_version(tmp_path / "nothing") == "unknown"


@pytest.mark.parametrize(
    ("limit", "usage", "stat", "cached"),
    [
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ],
)
def test_a_containers_own_limit_counts_and_files_that_are_cached_are_free(
    limit: str, usage: str, stat: str, cached: str, tmp_path: Path
) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / limit).write_text("1000\n")
    (tmp_path / usage).write_text("700\n")
    (tmp_path / stat).write_text(f"anon 400\n{cached} 300\n")
    assert _container_limit(tmp_path) == (600, 1000)


def test_a_container_without_a_limit_has_the_machines_memory(tmp_path: Path) -> None:
    assert _container_limit(tmp_path) is None
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.stat").write_text("inactive_file 300\n")
    assert _container_limit(tmp_path) is None
