"""``gc``: nothing is ended without being asked to; what could not be ended is said."""

import argparse
import io
import json
from datetime import UTC, datetime

import pytest

from gitops_ml.backends.base import Leftover
from gitops_ml.commands import gc
from gitops_ml.errors import ServiceError
from gitops_ml.project import Project
from gitops_ml.tools import Tools

SINCE = datetime(2026, 11, 26, 21, 5, tzinfo=UTC)


class Backend:
    """Holds leftovers by name; one in ``stuck`` refuses to go, one in ``back`` comes back."""

    def __init__(self, *names, stuck=(), back=()):
        self.names = list(names)
        self._stuck, self._back = stuck, back

    def leftovers(self, now):
        for name in list(self.names):
            yield Leftover(
                kind="machine", identity=name, key="ab" * 32, since=SINCE, end=lambda name=name: self._end(name)
            )

    def _end(self, name):
        if name in self._stuck:
            raise ServiceError("EC2 does not answer")
        if name not in self._back:
            self.names.remove(name)


def run(tmp_path, backend, *, end=False, form="text"):
    tools = Tools(cwd=tmp_path, environ={}, out=io.StringIO(), err=io.StringIO())
    tools.project = Project(backend="aws-ec2", backends={"aws-ec2": {}})
    tools._backends = {"local": Backend(), "aws-ec2": backend}
    code = gc.run(argparse.Namespace(end=end, backends=[], format=form), tools)
    return code, tools.out.getvalue(), tools.err.getvalue()


def test_gc__nothing_left__says_so(tmp_path):
    assert run(tmp_path, Backend()) == (0, "nothing to do: nothing outlived its deadline\n", "")


def test_gc__not_asked_to_end__only_shows(tmp_path):
    backend = Backend("i-1", "i-2\n::error::")

    code, out, _ = run(tmp_path, backend)

    assert code == 1
    assert out == (
        "found machine i-1, of abababababab, overdue since 2026-11-26 21:05 UTC\n"
        "found machine i-2 ::error::, of abababababab, overdue since 2026-11-26 21:05 UTC\n"
        "2 left; `gitops-ml gc --end` ends them\n"
    )
    assert len(backend.names) == 2


def test_gc__asked_to_end__ends_and_looks_again(tmp_path):
    backend = Backend("i-1")

    code, out, _ = run(tmp_path, backend, end=True)

    assert (code, backend.names) == (0, [])
    assert out == "ended machine i-1, of abababababab, overdue since 2026-11-26 21:05 UTC\n"


@pytest.mark.parametrize(
    ("how", "said"), [({"stuck": ["i-1"]}, "could not end machine i-1: EC2 does not answer\n"), ({"back": ["i-1"]}, "")]
)
def test_gc__what_does_not_go__is_said_and_is_no_success(tmp_path, how, said):
    code, out, err = run(tmp_path, Backend("i-1", "i-2", **how), end=True)

    assert code == 5
    assert out.endswith("still there: machine i-1\n")
    assert out.count("ended machine i-1") == len(how.get("back", []))
    assert err == said


def test_gc__as_json__says_what_was_ended(tmp_path):
    _, out, _ = run(tmp_path, Backend("i-1", "i-2", stuck=["i-2"]), end=True, form="json")

    rows = json.loads(out)
    assert [(row["identity"], row["ended"]) for row in rows] == [("i-1", True), ("i-2", False)]
    assert rows[0] == {
        "kind": "machine",
        "identity": "i-1",
        "key": "ab" * 32,
        "since": "2026-11-26T21:05:00+00:00",
        "ended": True,
    }
