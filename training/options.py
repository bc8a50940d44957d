"""Command-line options that training and evaluation share. Imports click alone, so that --help is quick."""

from __future__ import annotations

import click

device_option = click.option(
    "--device", type=click.Choice(["auto", "cpu", "ascend"]), default="auto", show_default=True
)
"""Where the network runs, as `training.parallel.start` takes it."""
