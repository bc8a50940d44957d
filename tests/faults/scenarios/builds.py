"""Shard builds that are killed, have a full or read-only disk, run concurrently, or read images that change."""

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
from tests.faults.report import FaultReport
from tests.faults.shard_sets import build_arguments, build_in_process, create_source, file_hashes
from tests.support.coco_folder import ROOT, jpeg

PICTURES = 96
PER_SHARD = 2
"""Records per shard. Small shards let a build be interrupted both between and within shards."""
TIMEOUT = 60
"""Timeout in seconds for the end of a build, and of the workers of a killed build, which keep its output open."""


def start_build(coco: Path, out: Path, *more: object) -> subprocess.Popen[str]:
    """Start pipeline.shards with two workers in its own session."""
    options = ("--workers", 2, "--records-per-shard", PER_SHARD, *more)
    command = [sys.executable, "-m", "pipeline.shards", *build_arguments(coco, out, *options)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def kill_parent(process: subprocess.Popen[str]) -> None:
    process.kill()


def kill_worker(process: subprocess.Popen[str]) -> None:
    """Kill a worker, as the kernel does if memory runs out, or the parent if there is no worker yet."""
    workers = [child for child in _children(process) if any("loky" in word for word in _command_line(child))]
    if workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            workers[0].kill()
    else:
        process.kill()


def kill_all(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)


KILLS: tuple[Callable[[subprocess.Popen[str]], None], ...] = (kill_parent, kill_worker, kill_all)


def kill_builds(seed: int, cases: int, folder: Path) -> FaultReport:
    """Kill builds at random times; the next build must give the same bytes as a build without interruption."""
    coco = create_source(folder / "coco", PICTURES)
    reference = folder / "reference"
    started = time.monotonic()
    start_build(coco, reference).communicate(timeout=TIMEOUT)
    duration = time.monotonic() - started
    expected = file_hashes(reference)
    report = FaultReport()
    finished = []
    for case in range(cases):
        kind = KILLS[case % len(KILLS)]
        out = folder / "set"
        process = start_build(coco, out)
        delay = float(np.random.default_rng((seed, case)).uniform(0.0, 1.05 * duration))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        if process.poll() is None:
            kind(process)
        error = process.communicate(timeout=TIMEOUT)[1]
        problem = _end_problem(process.returncode, error, out)
        finished.append(len(list(out.glob("shard-*.json"))))
        again = start_build(coco, out)
        message = again.communicate(timeout=TIMEOUT)[1]
        if again.returncode:
            problem = problem or f"the next build ended with {again.returncode}: {message[-200:]}"
        report.add_case(
            f"{kind.__name__} after {delay:.2f} s (case {case})", problem or _byte_difference(out, expected)
        )
        shutil.rmtree(out, ignore_errors=True)
    report.figures.append(f"{np.mean(finished):.0f} of {len(expected) // 3} shards complete when killed, on average")
    return report


def _end_problem(code: int | None, error: str, out: Path) -> str | None:
    """Return what is wrong with the exit code, the error output or the files of an interrupted build, or None."""
    own_traceback = "pipeline" in error.rpartition("Traceback")[2]  # a traceback of loky alone is accepted
    if code not in (0, 2, -signal.SIGKILL) or own_traceback:
        return f"exit code {code}: {error[-300:]}"
    if (out / FILE_NAME).exists() and Manifest.read(out).verify(out, hash_all=True):
        return "left an invalid set with a manifest"
    return None


def _byte_difference(out: Path, expected: dict[str, str]) -> str | None:
    after = file_hashes(out)
    names = sorted(name for name in after.keys() | expected.keys() if after.get(name) != expected.get(name))
    return f"bytes differ from an uninterrupted build: {', '.join(names[:5])}" if names else None


def _children(process: subprocess.Popen[str]) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def _command_line(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        return process.cmdline()
    return []


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs of the given size at `folder`; raise PermissionError if mounting is not permitted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PermissionError("mounting a file system is not permitted") from error
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def resize(disk: Path, options: str) -> None:
    """Remount a small disk with other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True, capture_output=True)


def unwritable_disks(seed: int, cases: int, folder: Path) -> FaultReport:
    """Build on a full and on a read-only disk; when the disk is writable again, the next build must succeed."""
    coco = create_source(folder / "coco")
    build_in_process(coco, folder / "reference")
    expected = file_hashes(folder / "reference")
    report = FaultReport()
    rng = np.random.default_rng(seed)
    try:
        for case in range(cases):
            kilobytes = int(rng.integers(16, 3300))
            with small_disk(folder / f"disk{case}", f"{kilobytes}k") as disk:
                problem = _rejection_problem(coco, disk / "set")
                resize(disk, "size=64m")
                build_in_process(coco, disk / "set")
                report.add_case(f"disk of {kilobytes} KB", problem or _byte_difference(disk / "set", expected))
        with small_disk(folder / "fixed", "64m") as disk:
            for name in ("set", "."):
                resize(disk, "ro")
                problem = _rejection_problem(coco, disk / name)
                resize(disk, "rw")
                build_in_process(coco, disk / name)
                report.add_case(f"read-only {name}", problem or _byte_difference(disk / name, expected))
                if name != ".":
                    shutil.rmtree(disk / name)
    except PermissionError as error:
        report.skipped.append(f"full and read-only disks: {error}")
    return report


def _rejection_problem(coco: Path, out: Path) -> str | None:
    """Return what is wrong with the end of a build on an unwritable disk, or None."""
    result = build_in_process(coco, out)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return f"raised {result.exception!r}"
    if result.exit_code != 2 or result.stderr.count("Error: ") != 1:
        return f"exit code {result.exit_code}: {result.output[-300:]}"
    try:
        Manifest.load(out, hash_all=True)
    except InputError:
        return None
    return "left a set that loads as complete"


def _delete_image(path: Path) -> None:
    path.unlink(missing_ok=True)


def _empty_image(path: Path) -> None:
    path.write_bytes(b"")


def _truncate_image(path: Path) -> None:
    os.truncate(path, 300)


def _replace_image(path: Path) -> None:
    path.write_bytes(jpeg(48, 64, 7))


CHANGES: tuple[Callable[[Path], None], ...] = (_delete_image, _empty_image, _truncate_image, _replace_image)


def changing_images(seed: int, cases: int, folder: Path) -> FaultReport:
    """Change an image during a build: the build must fail and name it, or the set holds the old or the new image.

    After the image is restored, the next build must give the same bytes as a build without a change.
    """
    coco = create_source(folder / "coco", PICTURES)
    build_in_process(coco, folder / "reference", per_shard=PER_SHARD)
    expected = file_hashes(folder / "reference")
    pictures = sorted((coco / "train").iterdir())
    report = FaultReport()
    for case in range(cases):
        rng = np.random.default_rng((seed, case))
        change, out = CHANGES[case % len(CHANGES)], folder / "set"
        path = pictures[4 * int(rng.integers(len(pictures) // 4))]  # an image with a trainable person
        whole, info = path.read_bytes(), path.stat()
        process = start_build(coco, out)
        time.sleep(float(rng.uniform(0.2, 1.2)))
        change(path)
        error = process.communicate(timeout=TIMEOUT)[1]
        problem = _end_problem(process.returncode, error, out)
        if process.returncode == 2 and path.name not in error:
            problem = f"the error does not name the image: {error[-200:]}"
        path.write_bytes(whole)
        os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))
        again = build_in_process(coco, out, "--force", per_shard=PER_SHARD)
        if again.exit_code:
            problem = problem or f"the next build ended with {again.exit_code}: {again.output[-200:]}"
        report.add_case(f"{change.__name__} {path.name} (case {case})", problem or _byte_difference(out, expected))
        shutil.rmtree(out)
    return report


def concurrent_builds(seed: int, cases: int, folder: Path) -> FaultReport:
    """Start two builds into one folder: the second must name the running build, or find the complete set."""
    coco = create_source(folder / "coco", PICTURES)
    build_in_process(coco, folder / "reference", per_shard=PER_SHARD)
    expected = file_hashes(folder / "reference")
    report = FaultReport()
    refused = 0
    for case in range(cases):
        out = folder / "set"
        first = start_build(coco, out)
        time.sleep(float(np.random.default_rng((seed, case)).uniform(0.0, 0.6)))
        second = start_build(coco, out)
        errors = [process.communicate(timeout=TIMEOUT)[1] for process in (first, second)]
        problem = None
        for this, other, error in ((first, second, errors[0]), (second, first, errors[1])):
            locked = f"process {other.pid} on {os.uname().nodename} is building this set" in error
            complete = "another build of this set has just ended" in error or "complete and unchanged" in error
            refused += locked
            if this.returncode and not locked and not complete:
                problem = f"exit code {this.returncode}: {error[-300:]}"
        if first.returncode and second.returncode:
            problem = "both builds failed"
        report.add_case(f"two builds (case {case})", problem or _byte_difference(out, expected))
        shutil.rmtree(out)
    report.figures.append(f"{refused} rejected with the id of the running build process")
    return report
