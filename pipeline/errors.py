"""The exception for errors that a user can correct. Commands report it in one line with exit code 2."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click


class InputError(ValueError):
    """Invalid input from the user. The message is one line: the file or field, its value, and what is expected."""


class _InputErrorExit(click.ClickException):
    exit_code = 2


def reports_input_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a click command: on an InputError it prints `Error: …`, without a traceback, and exits with code 2."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except InputError as error:
            raise _InputErrorExit(str(error)) from error

    return wrapper
