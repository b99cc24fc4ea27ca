"""How a command ends: exit codes 0 done, 1 failed, 2 usage or configuration, 3 stopped by a signal after saving."""

from __future__ import annotations

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 3


class CommandError(Exception):
    """Ends a command with one clear message on stderr and an exit code."""

    code = FAILED


class Failure(CommandError):
    """The work could not be done: bad data, a failed check."""

    code = FAILED


class UsageError(CommandError):
    """The command or its configuration is wrong."""

    code = USAGE
