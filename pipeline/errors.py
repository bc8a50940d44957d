"""One error for everything that a user can mend, and how a command reports it: one line, exit code 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


class InputError(ValueError):
    """Something the user gave is wrong; one line says which file or field, which value, and what would be right."""


class _InputFailure(click.ClickException):
    exit_code = 2


def reports_input_errors(run: Callable[..., Any]) -> Callable[..., Any]:
    """Let a click command end with `Error: …` and exit code 2, without a traceback, on an InputError."""

    @functools.wraps(run)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return run(*args, **kwargs)
        except InputError as error:
            raise _InputFailure(str(error)) from error

    return wrapper
