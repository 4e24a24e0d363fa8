import json
import os

from gitops_ml import __version__
from gitops_ml.diagnostics import FORMATS, Diagnostic, Position, Severity, summary

FOUND = [
    Diagnostic(file="a b,c:d.yaml", position=Position(3, 7), code="unknown-key", message="unknown key `x`; 100%\nsure"),
    Diagnostic(file="b.yaml", position=Position(1, 1), code="late", message="hm", severity=Severity.WARNING),
]


def test_as_text__findings__one_line_each():
    assert FORMATS["text"](FOUND) == (
        "a b,c:d.yaml:3:7: unknown key `x`; 100%\\nsure [unknown-key]\nb.yaml:1:1: warning: hm [late]"
    )


def test_as_text__hostile_file_name__cannot_write_to_the_terminal():
    name = os.fsdecode(b"x\x1b[2J\n\xff.yaml")
    found = Diagnostic(file=name, position=Position(1, 1), code="c", message="m")

    text = FORMATS["text"]([found])

    assert text == "x\\x1b[2J\\n\\udcff.yaml:1:1: m [c]"
    for form in FORMATS.values():
        form([found]).encode()


def test_as_json__findings__a_list_of_mappings():
    assert json.loads(FORMATS["json"](FOUND))[1] == {
        "file": "b.yaml", "line": 1, "column": 1, "severity": "warning", "code": "late", "message": "hm",
    }  # fmt: skip


def test_as_github__findings__escaped_workflow_commands():
    assert FORMATS["github"](FOUND) == (
        "::error file=a b%2Cc%3Ad.yaml,line=3,col=7,title=unknown-key::unknown key `x`; 100%25\\nsure\n"
        "::warning file=b.yaml,line=1,col=1,title=late::hm"
    )


def test_as_gitlab__findings__a_code_quality_report():
    first, second = json.loads(FORMATS["gitlab"](FOUND))

    assert len(first.pop("fingerprint")) == 64
    assert first == {
        "description": "unknown key `x`; 100%\nsure",
        "check_name": "unknown-key",
        "severity": "major",
        "location": {"path": "a b,c:d.yaml", "lines": {"begin": 3}},
    }
    assert second["severity"] == "minor"


def test_as_gitlab__fingerprints__stay_when_lines_move_and_differ_for_equal_findings():
    def at(*lines: int) -> list[str]:
        found = [Diagnostic(file="f", position=Position(line, 1), code="c", message="m") for line in lines]
        return [it["fingerprint"] for it in json.loads(FORMATS["gitlab"](found))]

    assert at(1, 2) == at(5, 9)
    assert len({*at(1, 2)}) == 2


def test_as_sarif__findings__as_code_scanning_reads_them():
    sarif = json.loads(FORMATS["sarif"](FOUND))

    (run,) = sarif["runs"]
    assert sarif["version"] == "2.1.0"
    assert run["tool"]["driver"] == {
        "name": "gitops-ml",
        "semanticVersion": __version__,
        "rules": [{"id": "late"}, {"id": "unknown-key"}],
    }
    result = run["results"][0]
    assert result.pop("partialFingerprints").keys() == {"gitopsMl/v1"}
    assert result == {
        "ruleId": "unknown-key",
        "level": "error",
        "message": {"text": "unknown key `x`; 100%\nsure"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": "a%20b%2Cc%3Ad.yaml"},
                    "region": {"startLine": 3, "startColumn": 7},
                }
            }
        ],
    }


def test_formats__nothing_found__valid_and_empty():
    assert [FORMATS[name]([]) for name in ("text", "github", "json", "gitlab")] == ["", "", "[]", "[]"]
    assert json.loads(FORMATS["sarif"]([]))["runs"][0]["results"] == []


def test_summary__findings__counts_errors_and_warnings():
    assert summary([], "3 specs") == "3 specs: nothing found"
    assert summary(FOUND, "2 specs") == "2 specs: 1 error, 1 warning"
    assert summary([*FOUND, FOUND[0]], "1 spec") == "1 spec: 2 errors, 1 warning"
