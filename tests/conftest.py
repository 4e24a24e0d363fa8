"""What holds for all tests: in CI a skipped test is a failure, named with its reason."""

import dataclasses
import os

import pytest
from hypothesis import settings

# A busy machine is no bug of ours: examples are counted, not timed.
settings.register_profile("counted", deadline=None)
settings.load_profile("counted")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a CI run that skipped something: what nobody ran, nobody has tested."""
    if os.environ.get("CI") == "true" and _skipped(session) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Say in which fields two of our values differ, as pytest says it of what dataclasses compare by themselves."""
    if op != "==" or type(left) is not type(right) or not dataclasses.is_dataclass(left):
        return None
    pairs = [(field.name, getattr(left, field.name), getattr(right, field.name)) for field in dataclasses.fields(left)]
    differing = [f"{name}: {mine!r} != {theirs!r}" for name, mine, theirs in pairs if mine != theirs]
    return [f"two values of {type(left).__name__} that differ in:", *differing]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why the run failed when no test did."""
    skipped = _skipped(terminalreporter._session)
    if os.environ.get("CI") == "true" and skipped:
        terminalreporter.write_sep("=", "skipped in CI, which is a failure", red=True)
        for name in skipped:
            terminalreporter.write_line(name)
        terminalreporter.write_line("install what each reason above names; .ci/run does it where it may")


def _skipped(session: pytest.Session) -> list[str]:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # xdist's workers have no reporter; the process that started them sees every report.
    return [report.nodeid for report in reporter.stats.get("skipped", ())] if reporter else []
