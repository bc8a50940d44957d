"""What new files have in common."""

from __future__ import annotations

from pathlib import Path


def give_usual_mode(path: Path) -> None:
    """Give a file the permissions that any new file in its folder gets; MindSpore creates its own 0600 or 0400.

    A new file tells them. Asking for the umask would mean to change it, for all threads.
    """
    usual = path.with_name(f"{path.name}.mode")
    try:
        usual.touch()
        path.chmod(usual.stat().st_mode & 0o777)
    finally:
        usual.unlink(missing_ok=True)
