"""Build: killed at any moment, on a full or read-only disk, beside another build, over pictures that change."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil

from pipeline.errors import InputError
from pipeline.storage.manifest import FILE_NAME, Manifest
from tests.faults.report import Findings
from tests.faults.sets import arguments, build_here, contents, make_source
from tests.support.coco_folder import ROOT, jpeg

PICTURES = 96
PER_SHARD = 2
"""Many small shards: a build is interrupted between them and within them."""
PATIENCE = 60
"""s; every build ends sooner, and so do the workers of one that was killed, which hold its output open."""


def start_build(coco: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    """Run pipeline.shards with two workers in a session of its own."""
    options = ("--workers", 2, "--records-per-shard", PER_SHARD, *more)
    command = [sys.executable, "-m", "pipeline.shards", *arguments(coco, out, *options)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_worker(process: subprocess.Popen[str]) -> None:
    """One of the workers, as the kernel does when memory runs out; the parent where there is none yet."""
    workers = [child for child in _children(process) if any("loky" in word for word in _words(child))]
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers[0].kill()
    else:
        process.kill()


def kill_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


KILLS: tuple[Callable[[subprocess.Popen[str]], None], ...] = (kill_parent, kill_worker, kill_all)


def kill_builds(seed: int, cases: int, folder: Path) -> Findings:
    """Kill builds at random moments; the next one completes, with the bytes of one that nobody disturbed."""
    coco = make_source(folder / "coco", PICTURES)
    undisturbed = folder / "undisturbed"
    began = time.monotonic()
    start_build(coco, undisturbed).communicate(timeout=PATIENCE)
    length = time.monotonic() - began
    expected = contents(undisturbed)
    findings = Findings()
    kept = []
    for case in range(cases):
        kind = KILLS[case % len(KILLS)]
        out = folder / "set"
        process = start_build(coco, out)
        moment = float(np.random.default_rng((seed, case)).uniform(0.0, 1.05 * length))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        if process.poll() is None:
            kind(process)
        error = process.communicate(timeout=PATIENCE)[1]
        problem = _after_kill(process.returncode, error, out)
        kept.append(len(list(out.glob("shard-*.json"))))
        again = start_build(coco, out)
        message = again.communicate(timeout=PATIENCE)[1]
        if again.returncode:
            problem = problem or f"the next build ended with {again.returncode}: {message[-200:]}"
        findings.count(f"{kind.__name__} after {moment:.2f} s (case {case})", problem or _difference(out, expected))
        shutil.rmtree(out, ignore_errors=True)
    findings.figures.append(f"{np.mean(kept):.0f} of {len(expected) // 3} shards were finished when killed")
    return findings


def _after_kill(code: int | None, error: str, out: Path) -> str | None:
    """What is wrong with how a disturbed build ended and what it left."""
    if (
        code not in (0, 2, -signal.SIGKILL) or "pipeline" in error.rpartition("Traceback")[2]
    ):  # loky's own may stand there
        return f"ended with {code}: {error[-300:]}"
    if (out / FILE_NAME).exists() and Manifest.read(out).verify(out, hash_all=True):
        return "left a set that looks complete and is not"
    return None


def _difference(out: Path, expected: dict[str, str]) -> str | None:
    after = contents(out)
    names = sorted(name for name in after.keys() | expected.keys() if after.get(name) != expected.get(name))
    return f"other bytes than undisturbed: {', '.join(names[:5])}" if names else None


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def _words(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of that size, as tmpfs; raises PermissionError where nothing may be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("nothing may be mounted here") from error
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def resize(disk: Path, options: str) -> None:
    """Remount a small disk with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True, capture_output=True)


def hostile_places(seed: int, cases: int, folder: Path) -> Findings:
    """A disk that fills up after so many MB, and one that is read-only; then both are as they should be."""
    coco = make_source(folder / "coco")
    build_here(coco, folder / "undisturbed")
    expected = contents(folder / "undisturbed")
    findings = Findings()
    chance = np.random.default_rng(seed)
    try:
        for case in range(cases):
            kilobytes = int(chance.integers(16, 3300))
            with small_disk(folder / f"disk{case}", f"{kilobytes}k") as disk:
                problem = _refusal(coco, disk / "set")
                resize(disk, "size=64m")
                build_here(coco, disk / "set")
                findings.count(f"disk of {kilobytes} KB", problem or _difference(disk / "set", expected))
        with small_disk(folder / "fixed", "64m") as disk:
            for name in ("set", "."):
                resize(disk, "ro")
                problem = _refusal(coco, disk / name)
                resize(disk, "rw")
                build_here(coco, disk / name)
                findings.count(f"read-only {name}", problem or _difference(disk / name, expected))
                if name != ".":
                    shutil.rmtree(disk / name)
    except PermissionError as error:
        findings.skipped.append(f"full and read-only disks: {error}")
    return findings


def _refusal(coco: Path, out: Path) -> str | None:
    """What is wrong with how a build without room ends."""
    result = build_here(coco, out)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if result.exit_code != 2 or result.stderr.count("Error: ") != 1:
        return f"ended with {result.exit_code}: {result.output[-300:]}"
    try:
        Manifest.load(out, hash_all=True)
    except InputError:
        return None
    return "left a set that looks complete"


def _vanish(path: Path) -> None:
    path.unlink(missing_ok=True)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    os.truncate(path, 300)


def _another(path: Path) -> None:
    path.write_bytes(jpeg(48, 64, 7))


CHANGES: tuple[Callable[[Path], None], ...] = (_vanish, _empty, _cut, _another)


def changing_sources(seed: int, cases: int, folder: Path) -> Findings:
    """A picture changes while a build runs: it fails and says so, or the set holds the picture whole, old or new.

    The picture is put back, and the next build ends with the bytes of one that nobody disturbed.
    """
    coco = make_source(folder / "coco", PICTURES)
    build_here(coco, folder / "undisturbed", per_shard=PER_SHARD)
    expected = contents(folder / "undisturbed")
    pictures = sorted((coco / "train").iterdir())
    findings = Findings()
    for case in range(cases):
        chance = np.random.default_rng((seed, case))
        change, out = CHANGES[case % len(CHANGES)], folder / "set"
        path = pictures[4 * int(chance.integers(len(pictures) // 4))]  # somebody trains on it
        whole, info = path.read_bytes(), path.stat()
        process = start_build(coco, out)
        time.sleep(float(chance.uniform(0.2, 1.2)))
        change(path)
        error = process.communicate(timeout=PATIENCE)[1]
        problem = _after_kill(process.returncode, error, out)
        if process.returncode == 2 and path.name not in error:
            problem = f"does not name the picture: {error[-200:]}"
        path.write_bytes(whole)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        again = build_here(coco, out, "--force", per_shard=PER_SHARD)
        if again.exit_code:
            problem = problem or f"the next build ended with {again.exit_code}: {again.output[-200:]}"
        findings.count(f"{change.__name__} {path.name} (case {case})", problem or _difference(out, expected))
        shutil.rmtree(out)
    return findings


def two_builds(seed: int, cases: int, folder: Path) -> Findings:
    """Two builds into one folder at once: one of them builds, the other names it; or it comes after, and finds it."""
    coco = make_source(folder / "coco", PICTURES)
    build_here(coco, folder / "undisturbed", per_shard=PER_SHARD)
    expected = contents(folder / "undisturbed")
    findings = Findings()
    refused = 0
    for case in range(cases):
        out = folder / "set"
        first = start_build(coco, out)
        time.sleep(float(np.random.default_rng((seed, case)).uniform(0.0, 0.6)))
        second = start_build(coco, out)
        errors = [process.communicate(timeout=PATIENCE)[1] for process in (first, second)]
        problem = None
        for mine, other, error in ((first, second, errors[0]), (second, first, errors[1])):
            held = f"process {other.pid} on {os.uname().nodename} is building this set" in error
            late = "another build of this set has just ended" in error or "complete and unchanged" in error
            refused += held
            if mine.returncode and not held and not late:
                problem = f"ended with {mine.returncode}: {error[-300:]}"
        if first.returncode and second.returncode:
            problem = "neither of them built it"
        findings.count(f"two builds (case {case})", problem or _difference(out, expected))
        shutil.rmtree(out)
    findings.figures.append(f"{refused} refused, naming the process that builds")
    return findings
