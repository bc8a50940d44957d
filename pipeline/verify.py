"""Check every file of one or more sets of shards against the manifest of the set: python -m pipeline.verify SHARDS."""

from __future__ import annotations

from pathlib import Path

import click

from pipeline.errors import InputError
from pipeline.storage.manifest import FILE_NAME, REBUILD_ADVICE, FileProblem, Manifest, find_sets


def verify_set(folder: Path) -> list[FileProblem]:
    """Read and hash every file of the set in `folder`; return all problems, an empty list for an intact set."""
    try:
        return Manifest.read(folder).verify(folder, hash_all=True)
    except InputError as error:
        return [FileProblem(FILE_NAME, str(error).removeprefix(f"{folder / FILE_NAME}: "))]


@click.command()
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(shards: tuple[Path, ...]) -> None:
    """Check every file of the sets in or below SHARDS. Exit code 0 if all sets are intact, 1 if any is damaged."""
    damaged = 0
    for folder in (found for root in shards for found in find_sets(root) or [root]):
        problems = verify_set(folder)
        for item in problems:
            click.echo(f"{folder / item.file}: {item.problem}")
        if problems:
            damaged += 1
        else:
            manifest = Manifest.read(folder)
            click.echo(f"{folder}: intact: {len(manifest.shards)} shards, {manifest.records} records")
    if damaged:
        click.echo(f"{damaged} damaged {'set' if damaged == 1 else 'sets'}: {REBUILD_ADVICE}", err=True)
        raise click.exceptions.Exit(1)


if __name__ == "__main__":
    main()
