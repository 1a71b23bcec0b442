"""What goes wrong, said to people: every error of rlkit is one of these, each with its exit code.

The text of an error has one to three lines: what happened, where, and what to do. The command prints exactly that
and exits with the class's `exit_code`; the traceback is shown only with `--debug` and is always in the run folder's
`error.json`.
"""

from __future__ import annotations

from collections.abc import Sequence


class RlkitError(Exception):
    """Base of all errors that rlkit raises on purpose; raised as itself it means a bug of rlkit."""

    exit_code = 70


class UsageError(RlkitError):
    """A wrong option, value, name, file or combination of them."""

    exit_code = 2


class ConfigError(UsageError):
    """Settings that do not fit: all of them at once.

    Args:
        problems: one `(path, message)` per wrong setting; the path is the setting's names from the outside in, for
            example `("algorithm", "estimator", "gamma")`.
    """

    def __init__(self, problems: list[tuple[tuple[str, ...], str]]) -> None:
        self.problems = problems
        super().__init__("\n".join(f"{'.'.join(path) or 'config'}: {message}" for path, message in problems))


class PluginError(RlkitError):
    """A plugin that is missing, cannot be imported, breaks the contract, or claims a name that another one has.

    Args:
        message: what to say.
        fault: of which kind it is, in a word: import, exit, contract, interface, hook, name, missing.
    """

    exit_code = 3

    def __init__(self, message: str, fault: str = "contract") -> None:
        self.fault = fault
        super().__init__(message)


class EnvironmentFault(RlkitError):
    """An environment that raised, or returned what its own spaces do not allow."""

    exit_code = 4


class Diverged(RlkitError):
    """A loss, gradient or parameter that is no longer a finite number."""

    exit_code = 5


class StorageError(RlkitError):
    """A file that cannot be written or read, or whose content is damaged."""

    exit_code = 6


class RunInUse(RlkitError):
    """A run folder that another process is writing to."""

    exit_code = 7


class ResumeRefused(RlkitError):
    """A run that would go on other than it began.

    Args:
        message: what to say.
        differences: `(what, then, now, whether it changes what is computed)` each.
    """

    exit_code = 7

    def __init__(self, message: str, differences: Sequence[tuple[str, str, str, bool]]) -> None:
        self.differences = differences
        super().__init__(message)


class ReproductionRefused(RlkitError):
    """A run that nobody can make again from its record."""

    exit_code = 7


class ComparisonRefused(UsageError):
    """A comparison that would mislead.

    Args:
        message: what to say.
        keys: what `--allow` takes to compare all the same, one per reason.
    """

    def __init__(self, message: str, keys: Sequence[str]) -> None:
        self.keys = tuple(keys)
        super().__init__(message)
