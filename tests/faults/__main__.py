"""The fault and soak suites behind `make faults`: python -m tests.faults."""

from __future__ import annotations

import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path

import click

from tests.faults.report import Findings, Line, format_table
from tests.faults.suites import SUITES, Suite


@click.command(context_settings={"show_default": True})
@click.option("--seed", type=click.IntRange(0), default=0, help="Decides every fault.")
@click.option("--only", type=click.Choice([suite.name for suite in SUITES]), multiple=True, help="Suite; repeatable.")
@click.option("--part", type=click.FloatRange(0, min_open=True), default=1.0, help="Of the usual number of cases.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the numbers and every failure, as JSON.")
def main(*, seed: int, only: tuple[str, ...], part: float, out: Path | None) -> None:
    """Try what the project promises about faults, load and bad input; exit code 1 if a promise is broken."""
    lines = []
    for suite in SUITES:
        if only and suite.name not in only:
            continue
        cases = max(1, round(part * suite.cases))
        click.echo(f"{suite.promise}: {suite.name}, {cases} cases …", err=True)
        start = time.monotonic()
        findings = _apart(suite, seed, cases)
        lines.append(Line(suite.promise, suite.name, findings, time.monotonic() - start))
        for failure in findings.failures:
            click.echo(f"  {failure}", err=True)
    click.echo(format_table(lines))
    if out:
        numbers = {"seed": seed, "suites": [asdict(line) for line in lines]}
        out.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if any(line.findings.failures for line in lines):
        raise click.exceptions.Exit(1)


def _apart(suite: Suite, seed: int, cases: int) -> Findings:
    """Run a suite in a process of its own: its memory is measured alone, and its death would be a finding."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(suite.run, seed, cases).result()
        except BrokenProcessPool:
            return Findings(cases, ["the suite's process died"])
        except Exception as error:
            return Findings(cases, [f"the suite broke off: {type(error).__name__}: {error}"])


if __name__ == "__main__":
    main()
