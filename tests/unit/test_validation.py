import random
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gitops_ml.diagnostics import Severity
from gitops_ml.validation import TreeFiles, load, same_names

SPECS = sorted((Path(__file__).parents[1] / "acceptance" / "specs").glob("*/*.yaml"))
LEAST = "version: 1\nname: x\nrun: 'true'\nmetrics: {read: [m.json], track: [{name: a}]}\n"


def said(text: str, files: TreeFiles | None = None) -> list[str]:
    _, found = load(text.encode(), "x.yaml", files)
    return [f"{it.position.line}:{it.position.column} {it.code}" for it in found]


def test_load__valid_spec__is_an_experiment_without_findings():
    experiment, found = load(LEAST.encode(), "x.yaml")

    assert found == ()
    assert (experiment.name, experiment.path) == ("x", "x.yaml")


def test_load__only_a_warning__is_still_an_experiment():
    experiment, found = load(b"version: 1\nname: x\nrun: 'true'\n", "x.yaml")

    assert [it.code for it in found] == ["nothing-to-compare"]
    assert experiment is not None


def test_load__without_files__paths_are_not_looked_up():
    assert said(f"{LEAST}code: {{include: [missing.py]}}\n") == []
    assert said(f"{LEAST}code: {{include: [missing.py]}}\n", TreeFiles([], {})) == ["5:18 missing-file"]


def test_load__shape_and_meaning_broken_in_one_part__both_are_said():
    text = (
        "version: 1\nname: Not One\nrun: 'true'\n"
        "environment: {image: train, pythn: '3.11', env: {GITOPS_ML_X: a, B: 1}}\n"
        "code: {include: [missing.py], exclude: 3}\n"
        "metrics: {read: [{path: m.json, format: jsn}], evaluation: [gone.py], "
        "track: [{name: a, gol: maximize, gate: fail}]}\n"
    )

    assert said(text, TreeFiles(["train.py"], {})) == [
        "2:7 wrong-format",
        "4:22 image-digest",
        "4:29 unknown-key",
        "4:50 reserved-name",
        "4:69 wrong-type",
        "5:18 missing-file",
        "5:40 wrong-type",
        "6:41 unknown-reader",
        "6:61 missing-file",
        "6:89 unknown-key",  # and no word of a missing goal, which it may be
    ]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("checkpoints: {pth: ckpt}\nresources: {spot: prefer}\n", ["5:15 unknown-key", "5:14 missing-key"]),
        ("resources: {spot: only}\nbudget: {retries: {preempted: 0}, max_wait: soon}\n", ["6:45 wrong-format"]),
        ("data: [{name: a, uri: 's3://b/k', verison: x}]\n", ["5:35 unknown-key"]),
    ],
)
def test_load__what_may_only_be_misspelt__is_not_missed_as_well(more, expected):
    assert sorted(said(f"{LEAST}{more}")) == sorted(expected)


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("python train.py --lr 1", None),
        ("python -u trian.py", "3:16: there is no file `trian.py` for `run` to start; did you mean `train.py`?"),
        ("bash go.sh && true", "3:11: there is no file `go.sh` for `run` to start"),
        ("[python3, trian.py]", "3:16: there is no file `trian.py` for `run` to start; did you mean `train.py`?"),
        ("python lib.py", "3:13: `run` starts `lib.py`, which the training does not see; add it to `code.include`"),
        ("python data/make.py", None),
        ("cp a b; python trian.py", None),
        ("python -m trian.py", None),
        ("python -c 'print(1)' x.py", None),
        ("python ${params.script}.py", None),
    ],
)
def test_load__script_that_the_training_will_not_find__is_a_warning(run, expected):
    text = (
        f"version: 1\nname: x\nrun: {run}\nmetrics: {{read: [m.json], track: [{{name: a}}]}}\nparams: {{script: a}}\n"
        "code: {include: [train.py]}\ndata: [{name: make, uri: data/make.py, role: train}]\n"
    )

    _, found = load(text.encode(), "x.yaml", TreeFiles(["train.py", "lib.py", "data/make.py"], {}))

    assert [f"{it.position.line}:{it.position.column}: {it.message}" for it in found] == (
        [expected] if expected else []
    )
    assert all(it.severity is Severity.WARNING for it in found)


FILES = TreeFiles(
    ["sub/train.py", "sub/src/a.py", "common/lib.py", "data/x.csv", "in", "out", "loop", "up", "sub/far", "abs"],
    {
        "in": "data",
        "out": "../elsewhere",
        "loop": "loop",
        "up": "sub/../data/x.csv",
        "sub/far": "../common",
        "abs": "/etc",
    },
)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("sub", "folder"), (".", "folder"), ("sub/train.py", "file"), ("sub/train.py/x", None), ("missing", None),
        ("in", "folder"), ("in/x.csv", "file"), ("in/y.csv", None), ("out", "outside"), ("out/x", "outside"),
        ("loop", None), ("loop/x", None), ("up", "file"), ("sub/far/lib.py", "file"), ("abs", "outside"),
        ("abs/passwd", "outside"),
    ],
)  # fmt: skip
def test_kind__path_in_a_tree__follows_symlinks_and_stays_inside(path, kind):
    assert FILES.kind(path) == kind


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("workdir: sub\ncode: {include: [train.py, src/**, ../common/*.py]}", []),
        ("workdir: sub\ncode: {include: [train.py, ../../x]}", ["6:28 outside"]),
        ("workdir: sob", ["5:10 missing-file"]),
        ("workdir: ..", ["5:10 outside"]),
        ("workdir: /tmp", ["5:10 outside"]),
        ("workdir: out", ["5:10 outside"]),
        ("code: {include: [out/x.py]}", ["5:18 outside"]),
        ("code: {include: ['out/**']}", ["5:18 outside"]),
        ("code: {include: [sub]}", ["5:18 is-folder"]),
        ("code: {include: [sub/]}", []),
        ("code: {exclude: [../x]}", ["5:18 outside"]),
        ("data: [{name: d, uri: data}]", []),
        ("data: [{name: d, uri: data/x.csv}, {name: e, uri: in/x.csv}]", []),
        ("data: [{name: d, uri: 'data/*.csv'}]", ["5:23 missing-file"]),
        ("data: [{name: d, uri: out/x}]", ["5:23 outside"]),
        ("artifacts: [{path: ../x}]", ["5:20 outside"]),
        ("artifacts: [{path: .git/config}]", ["5:20 outside"]),
        ("checkpoints: {path: out/ckpt}", ["5:21 outside"]),
        ("environment: {requirements: 'a\\b'}", ["5:29 backslash"]),
    ],
)
def test_load__paths__exist_and_stay_inside(more, expected):
    assert said(f"{LEAST}{more}\n", FILES) == expected


def test_load__too_many_trials__is_said_however_many():
    grid = ", ".join(f"p{number}: [{', '.join(map(str, range(1000)))}]" for number in range(40))
    params = ", ".join(f"p{number}: 0" for number in range(40))

    assert said(f"{LEAST}params: {{{params}}}\nsweep: {{grid: {{{grid}}}}}\n") == ["6:8 too-many-trials"]


def test_same_names__two_files__the_later_one_is_named():
    specs = [(load(text := f"# {path}\n{LEAST}".encode(), path)[0], text) for path in ("b.yaml", "a.yaml")]

    (found,) = same_names(specs)

    assert (found.file, found.position.line, found.position.column) == ("b.yaml", 3, 7)
    assert found.message == "the name `x` is already that of a.yaml; choose another"


@pytest.mark.parametrize(
    "text",
    [
        "sweep: {list: [" + "{a: 1}, " * 10_000 + "]}",
        "run: '" + "".join(f"${{params.a{number}}} " for number in range(10_000)) + "'",
        "run: '" + "${params. " * 20_000 + "'",
        "run: " + "<<a " * 50_000,
        "".join(f"nmae{number}: 1\n" for number in range(5000)),
        "seeds: [" + "x, " * 20_000 + "]",
        "x" * 100_000 + ": 1",
        "code: {include: ['" + "*a" * 500 + "b']}",
    ],
    ids=lambda text: text[:20],
)
def test_load__spec_made_to_take_long__ends(text):
    _, found = load(
        f"{LEAST if ': 1' not in text[:8] else ''}\n{text}\n".encode(), "x.yaml", TreeFiles(["a" * 4000], {})
    )

    assert found


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SPECS), st.randoms(use_true_random=False), st.integers(1, 4))
def test_load__mutated_spec__gives_findings_or_an_experiment(spec: Path, chance: random.Random, changes: int):
    lines = spec.read_bytes().splitlines(keepends=True) or [b"\n"]
    other = chance.choice(SPECS).read_bytes().splitlines(keepends=True) or [b"\n"]
    for _ in range(changes):
        index = chance.randrange(len(lines))
        line = lines[index]
        at = chance.randrange(len(line) + 1)
        lines[index] = chance.choice(
            [
                b"",
                line + line,
                b"  " + line,
                line.lstrip(),
                chance.choice(other),
                line[:at] + bytes([chance.randrange(256)]) + line[at:],
                line[:at]
                + chance.choice([b"{", b"]", b": ", b"'", b"null", b"-1", b"1e400", b"&a", b"${params.", b"\t"])
                + line[at:],
                line[:at] + line[at + 1 :],
            ]
        )

    experiment, found = load(b"".join(lines), "x.yaml", FILES)

    assert experiment is not None or found
    assert list(found) == sorted(found, key=lambda it: it.position)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
@example(b"{*a : 1}")
@example(b"! {}")
def test_load__any_bytes__gives_findings(content):
    experiment, found = load(content, "x.yaml", FILES)

    assert experiment is None
    assert found
