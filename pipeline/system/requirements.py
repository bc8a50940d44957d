"""Install what an existing Python environment lacks: python pipeline/system/requirements.py requirements-run.txt.

The environment belongs to the user or to a container: its MindSpore fits its CANN. Packages that it has are left alone,
whatever their version; only missing ones are installed, as pinned in the file. This script uses only the standard
library and pip, because it runs before anything is installed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata, util
from pathlib import Path

_ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>[^ ;\\]+)(?: ; (?P<marker>[^\\]+?))? \\$")

_MODULES = {"opencv-python-headless": "cv2", "mindspore": "mindspore"}
"""Packages that other distributions provide too, by the module that they install."""

_EXIT_MISSING = 3


def read_pins(text: str, applies: Callable[[str], bool]) -> dict[str, str]:
    """Return the entries of a file of pins with hashes, by package, without those whose marker does not apply."""
    pins: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        match = _ENTRY.match(line)
        if match:
            name = match["name"] if not match["marker"] or applies(match["marker"]) else ""
        if name and not line.startswith("#"):
            pins[name] = f"{pins.get(name, '')}{line}\n"
    return pins


def find_missing(pins: dict[str, str], has_package: Callable[[str], bool]) -> dict[str, str]:
    """Return the pins of packages that the environment does not have."""
    return {name: pin for name, pin in pins.items() if not has_package(name)}


def _marker_applies(marker: str) -> bool:
    try:
        from pip._vendor.packaging.markers import Marker
    except ImportError:
        sys.exit(f"Error: {sys.executable} has no pip; run: {sys.executable} -m ensurepip")
    return bool(Marker(marker).evaluate())


def _has_package(name: str) -> bool:
    if name in _MODULES and util.find_spec(_MODULES[name]):
        return True
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _describe_kept(names: tuple[str, ...]) -> str:
    kept = []
    for name in names:
        try:
            kept.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(kept)


def _install(missing: dict[str, str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "missing.txt"
        file.write_text("".join(missing.values()), encoding="utf-8")
        # without dependencies: the file of pins has all of them, and pip would replace packages that are there
        options = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--require-hashes",
            "--requirement",
            str(file),
        ]
        return subprocess.run([sys.executable, "-m", "pip", "install", *options], check=False).returncode


def main(arguments: list[str]) -> int:
    """Install what is missing; with --check only say so, with exit code 3. Return the exit code."""
    check = "--check" in arguments
    (file,) = (argument for argument in arguments if argument != "--check")
    missing = find_missing(read_pins(Path(file).read_text(encoding="utf-8"), _marker_applies), _has_package)
    names = ", ".join(missing)
    if check:
        if missing:
            sys.stderr.write(f"Error: {sys.executable} lacks {names}; install them with: make setup VENV=…\n")
        return _EXIT_MISSING if missing else 0
    kept = _describe_kept(("mindspore", "numpy"))
    sys.stdout.write(f"{sys.prefix}: {'keeps ' + kept if kept else 'has neither MindSpore nor NumPy'}; ")
    sys.stdout.write(f"installing {names}\n" if missing else "nothing is missing\n")
    sys.stdout.flush()
    return _install(missing) if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
