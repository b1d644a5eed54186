"""The errors a user can meet, by who must act on them.

    ParetrimError
    ├── InputError         the user: a file, an option or a value is wrong        exit code 2
    ├── CorruptRunError    the user: a run folder cannot be continued             exit code 2
    ├── InfeasibleError    nobody: no candidate can meet the budget               exit code 3
    └── DeviceError        the device's owner: it is silent, refuses or is broken  exit code 4

They live in the lowest layer so that every layer can raise them. All are picklable: Ray carries
them from actors to the driver.
"""

from __future__ import annotations


class ParetrimError(Exception):
    """Root of all errors that are shown to the user without a traceback.

    Args:
        message: What was wrong, what was expected, what was got.
        hint: What to do next.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InputError(ParetrimError):
    """A file, an option or a value given by the user is wrong."""

    exit_code = 2


class CorruptRunError(ParetrimError):
    """A run folder cannot be read or continued."""

    exit_code = 2


class InfeasibleError(ParetrimError):
    """No candidate can meet the budget; the message gives the lowest reachable value."""

    exit_code = 3


class DeviceError(ParetrimError):
    """A device worker does not answer, refuses, or answers nonsense."""

    exit_code = 4
