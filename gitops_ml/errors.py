"""Errors written for the person who can act on them, each with its exit code."""

import enum


class ExitCode(enum.IntEnum):
    """What a command says to the shell. The meanings are a contract: scripts depend on them."""

    OK = 0
    FINDINGS = 1
    USAGE = 2
    BUG = 3
    TRIAL_FAILED = 4
    SERVICE = 5
    DENIED = 6
    INTERRUPTED = 130


# The first that applies wins: a bug hides everything, a finding hides nothing.
_PRECEDENCE = (
    ExitCode.BUG,
    ExitCode.INTERRUPTED,
    ExitCode.USAGE,
    ExitCode.DENIED,
    ExitCode.SERVICE,
    ExitCode.TRIAL_FAILED,
    ExitCode.FINDINGS,
    ExitCode.OK,
)


def worst(*codes: int) -> ExitCode:
    """Return the exit code that several outcomes have together; none at all is fine."""
    return min((ExitCode(code) for code in codes), key=_PRECEDENCE.index, default=ExitCode.OK)


class UserError(Exception):
    """Something the user can mend. Shown as its text alone, without a traceback."""

    exit_code = ExitCode.USAGE


class ServiceError(UserError):
    """A service (a git server, a forge, a cloud) refused or could not be reached."""

    exit_code = ExitCode.SERVICE

    def __init__(self, text: str, *, lasting: bool = False) -> None:
        """``lasting``: asking again does not help before somebody has done something."""
        super().__init__(text)
        self.lasting = lasting


class TrialError(UserError):
    """A trial failed, was lost, or spent its budget."""

    exit_code = ExitCode.TRIAL_FAILED


class DeniedError(UserError):
    """Policy denies it, or an approval is missing."""

    exit_code = ExitCode.DENIED


class GitError(UserError):
    """git could not do what was asked; the text carries what git said."""

    exit_code = ExitCode.USAGE


class NoRepositoryError(UserError):
    """There is no git repository here, or no git."""


class NotSupportedError(UserError):
    """Named in the design, accepted by the schema, not built yet."""
