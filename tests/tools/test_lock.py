"""constraints.txt: the wheels it lists, and that pip installs no others."""

import hashlib
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.utils import parse_wheel_filename
from packaging.version import Version

from tools.lock import BESIDES, entry, fits, hashes, is_needed, pinned

DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("tags", "taken"),
    [
        ("py3-none-any", True), ("py2.py3-none-any", True), ("py2-none-any", False),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True), ("cp314-cp314-manylinux_2_28_aarch64", True),
        ("cp310-cp310-manylinux_2_28_x86_64", False), ("cp314-cp314t-manylinux_2_28_x86_64", False),
        ("cp37-abi3-manylinux_2_28_x86_64", True), ("cp39-abi3-macosx_11_0_arm64", True),
        ("cp312-cp312-macosx_10_13_universal2", True), ("cp312-cp312-macosx_10_13_x86_64", False),
        ("py3-none-manylinux_2_27_x86_64", True), ("py3-none-linux_x86_64", True),
        ("cp311-cp311-musllinux_1_2_x86_64", False), ("cp311-cp311-win_amd64", False),
        ("cp311-cp311-manylinux_2_31_armv7l", False), ("pp311-pypy311_pp73-manylinux_2_28_x86_64", False),
    ],
)  # fmt: skip
def test_wheels_for_linux_and_macs_from_python_3_11_on_are_taken(tags: str, taken: bool) -> None:
    found = parse_wheel_filename(f"some_package-1.0-{tags}.whl")[3]
    assert any(fits(tag) for tag in found) is taken


def test_a_source_package_is_not_taken() -> None:
    package = {"sdist": {"url": "https://host/a-1.tar.gz", "hashes": {"sha256": DIGEST}}, "wheels": []}
    assert hashes(package) == set()


def test_the_build_behind_a_plus_is_found_by_its_name_in_a_url() -> None:
    url = "https://host/torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl"
    assert hashes({"wheels": [{"url": url, "hashes": {"sha256": DIGEST}}]}) == {DIGEST}


@pytest.mark.parametrize(
    ("marker", "needed"),
    [
        ("sys_platform == 'linux'", True), ("platform_machine == 'arm64' and sys_platform == 'darwin'", True),
        ("sys_platform == 'win32'", False), ("platform_python_implementation != 'CPython'", False),
        ("python_full_version < '3.11'", False), ("sys_platform == 'emscripten'", False),
    ],
)  # fmt: skip
def test_a_package_of_another_world_is_left_out(marker: str, needed: bool) -> None:
    assert is_needed({"marker": marker}) is needed


def test_what_was_written_is_read_again() -> None:
    written = entry("torch", "2.13.0", {"b" * 64, "a" * 64}) + entry("pip", "26.3", {DIGEST})
    assert pinned(written) == {"torch": ("2.13.0", {"a" * 64, "b" * 64}), "pip": ("26.3", {DIGEST})}


def wheel(folder: Path, name: str, needs: str = "") -> Path:
    """Build a package with one empty module."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n" + (f"Requires-Dist: {needs}\n" if needs else "")
    info = f"{name}-1.0.dist-info"
    with ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", "")
        archive.writestr(f"{info}/METADATA", about)
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("changed", ["nothing", "named", "needed", "unlisted"])
def test_pip_installs_no_wheel_but_those_whose_hash_is_known(changed: str, tmp_path: Path) -> None:
    if Version(version("pip")) < Version("26.1") and os.environ.get("CI") != "true":
        pytest.skip(f"pip {version('pip')} takes no hashes from constraints; `make setup` brings {BESIDES[1]}")
    named, needed = wheel(tmp_path, "named", "needed>=0.5"), wheel(tmp_path, "needed")
    known = {path.stem.split("-")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in (named, needed)}
    known = {name: "0" * 64 if name == changed else digest for name, digest in known.items()}
    if changed == "unlisted":
        del known["needed"]
    (tmp_path / "requirements.txt").write_text("named==1.0\n")
    (tmp_path / "constraints.txt").write_text("".join(entry(name, "1.0", {one}) for name, one in known.items()))
    pip = [sys.executable, "-m", "pip", "install", "--no-index", "--find-links", ".", "--target", "got"]
    command = [*pip, "-r", "requirements.txt", "-c", "constraints.txt"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert (done.returncode == 0) is (changed == "nothing"), done.stderr.decode()
    assert (tmp_path / "got/needed.py").exists() is (changed == "nothing")
