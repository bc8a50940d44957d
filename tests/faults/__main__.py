"""Command line of the fault injection, fuzzing and soak suites (`make faults`): python -m tests.faults."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import click

from tests.faults.report import FaultReport, TableRow, format_table
from tests.faults.suites import SUITES, Suite


@click.command(context_settings={"show_default": True})
@click.option("--seed", type=click.IntRange(0), default=0, help="Random seed.")
@click.option(
    "--only", type=click.Choice([suite.name for suite in SUITES]), multiple=True, help="Suite to run; repeatable."
)
@click.option("--part", type=click.FloatRange(0, min_open=True), default=1.0, help="Factor of the number of cases.")
@click.option("--out", type=click.Path(path_type=Path), help="JSON file for the results with all failures.")
def main(*, seed: int, only: tuple[str, ...], part: float, out: Path | None) -> None:
    """Test the behaviour under faults, load and invalid input. The exit code is 1 if any case fails."""
    rows = []
    for suite in SUITES:
        if only and suite.name not in only:
            continue
        cases = max(1, round(part * suite.cases))
        click.echo(f"{suite.area}: {suite.name}, {cases} cases …", err=True)
        start = time.monotonic()
        report = _run_in_subprocess(suite, seed, cases)
        rows.append(TableRow(suite.area, suite.name, report, time.monotonic() - start))
        for failure in report.failures:
            click.echo(f"  {failure}", err=True)
    click.echo(format_table(rows))
    if out:
        results = {"seed": seed, "suites": [row.to_json() for row in rows]}
        out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if any(row.report.failures for row in rows):
        raise click.exceptions.Exit(1)


def _run_in_subprocess(suite: Suite, seed: int, cases: int) -> FaultReport:
    """Run a suite in its own process: its memory is measured separately, and a crash is reported as a failure."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(suite.run, seed, cases).result()
        except BrokenProcessPool:
            return FaultReport(cases, ["the process of the suite crashed"])
        except Exception as error:
            return FaultReport(cases, [f"the suite raised {type(error).__name__}: {error}"])


if __name__ == "__main__":
    main()
