"""Keys, points and plans over hand-made trees."""

import dataclasses
import hashlib
import itertools
import json
from importlib import resources

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitops_ml import planning
from gitops_ml.errors import UserError
from gitops_ml.planning import Action, Base, Estimate, Relation, Situation, Specs, Tree, TreeFile
from gitops_ml.records import BaselineChoice, Version
from gitops_ml.spec import (
    BaselineRule,
    Code,
    Data,
    Environment,
    Experiment,
    Metrics,
    Missing,
    RandomSweep,
    Range,
    Resources,
    Sweep,
)

INTERPRETER = {"python": "3.11", "platform": "linux-x86_64", "packages": ["numpy==2.0.0"]}
FILES = {
    "train.py": "print(1)",
    "src/model.py": "x = 1",
    "docs/page.md": "text",
    "README.md": "text",
    ".github/workflows/ci.yml": "on: push",
    "gitops-ml.yaml": "",
    "experiment.yaml": "version: 1",
    "data/train.csv": "1,2",
    "data/more/a.csv": "a",
    "data/more/b.csv": "b",
    "requirements.lock": "numpy==2.0.0",
    "eval.py": "score()",
}
SPECS = frozenset({"experiment.yaml"})


def tree(files: dict[str, str] | None = None, *, commit: str = "c" * 40, **changed: str) -> Tree:
    """A tree in which each blob's id is the digest of its text."""
    files = {**(FILES if files is None else files), **{name.replace("__", "."): text for name, text in changed.items()}}
    blobs = {hashlib.sha1(text.encode()).hexdigest(): text.encode() for text in files.values()}
    listing = {
        path: TreeFile(path, "100644", hashlib.sha1(text.encode()).hexdigest()) for path, text in sorted(files.items())
    }
    identity = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
    return Tree(version=Version(commit=commit, tree=identity, label="main"), files=listing, read=blobs.__getitem__)


def experiment(**fields: object) -> Experiment:
    defaults: dict[str, object] = {
        "path": "experiment.yaml",
        "name": "digits",
        "run": "python train.py --lr ${params.lr}",
        "data": (Data(name="train", uri="data/train.csv"),),
        "params": {"lr": 0.1, "epochs": 3},
        "seeds": (0, 1),
    }
    return Experiment(**{**defaults, **fields})


def situation(*known: str, **fields: object) -> Situation:
    return Situation(known=frozenset(known), interpreter=INTERPRETER, **fields)


def keys(exp: Experiment, at: Tree | None = None, **fields: object) -> list[str]:
    return [trial.key for trial in planning.side_trials(exp, at or tree(), SPECS, situation(**fields))]


def specs(exp: Experiment, at: Tree) -> Specs:
    return Specs(tree=at, experiments={exp.path: exp}, paths=frozenset({exp.path}))


def base(exp: Experiment | None, at: Tree) -> Base:
    choice = BaselineChoice(version=at.version, ref="main", chosen="merge-base", behind=0)
    experiments = {exp.path: exp} if exp is not None else {}
    return Base(choice=choice, specs=Specs(tree=at, experiments=experiments, paths=frozenset(experiments)))


def test_side_trials__key_document__golden_vector() -> None:
    (trial,) = planning.side_trials(experiment(seeds=(7,)), tree(), SPECS, situation())

    code = sorted(
        [path, "100644", hashlib.sha1(FILES[path].encode()).hexdigest()]
        for path in ("train.py", "src/model.py", "data/more/a.csv", "data/more/b.csv", "requirements.lock", "eval.py")
    )
    digest = hashlib.sha256(json.dumps(code, separators=(",", ":")).encode()).hexdigest()
    assert trial.document == {
        "format": "gitops-ml-key/1",
        "run": "python train.py --lr ${params.lr}",
        "workdir": ".",
        "params": {"lr": 0.1, "epochs": 3},
        "seed": 7,
        "repeat": 0,
        "nodes": 1,
        "environment": {"env": {}, "interpreter": INTERPRETER},
        "code": digest,
        "data": [["train", "git:" + hashlib.sha1(b"1,2").hexdigest()]],
    }
    assert trial.key == "787ed3140c8dee06a1247f2c6bebe606b394a6c4ead1cb5f19045ae6163a94b1"


@pytest.mark.parametrize(
    "change",
    [
        {"run": "python train.py"},
        {"run": ("python", "train.py")},
        {"params": {"lr": 0.2, "epochs": 3}},
        {"params": {"lr": 0.1}},
        {"seeds": (2, 3)},
        {"workdir": "src", "data": (Data(name="train", uri="../data/train.csv"),), "code": Code(include=("*.py",))},
        {"environment": Environment(env={"A": "1"})},
        {"environment": Environment(requirements="requirements.lock")},
        {"environment": Environment(image="ghcr.io/a/b@sha256:" + "0" * 64)},
        {"data": (Data(name="train", uri="data/more"),)},
        {"data": (Data(name="other", uri="data/train.csv"),)},
        {"code": Code(exclude=("eval.py",))},
        {"resources": Resources(nodes=2)},
    ],
)
def test_side_trials__what_determines_the_result_changes__all_keys_change(change: dict[str, object]) -> None:
    assert not set(keys(experiment())) & set(keys(experiment(**change)))


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"description": "text"},
        {"labels": {"team": "vision"}},
        {"resources": Resources(cpu=8)},
        {"backend": "aws-ec2"},
        {"metrics": Metrics(evaluation=("eval.py",))},
        {"baseline": BaselineRule(missing=Missing.WARN)},
        {"environment": Environment(secrets=("HF_TOKEN",))},
        {"seeds": (1, 0)},
    ],
)
def test_side_trials__the_rest_of_the_spec_changes__keys_stay(change: dict[str, object]) -> None:
    assert set(keys(experiment())) == set(keys(experiment(**change)))


@pytest.mark.parametrize("path", ["train.py", "src/model.py", "eval.py", "data/train.csv", "data/more/a.csv"])
def test_side_trials__code_or_data_file_changes__keys_change(path: str) -> None:
    assert not set(keys(experiment())) & set(keys(experiment(), tree({**FILES, path: "changed"})))


@pytest.mark.parametrize(
    "path", ["README.md", "docs/page.md", ".github/workflows/ci.yml", "gitops-ml.yaml", "experiment.yaml"]
)
def test_side_trials__left_out_file_changes__keys_stay(path: str) -> None:
    assert keys(experiment()) == keys(experiment(), tree({**FILES, path: "changed"}))


def test_side_trials__explicit_include__takes_markdown_but_never_specs() -> None:
    exp = experiment(code=Code(include=("**",)))

    assert keys(exp) != keys(exp, tree({**FILES, "README.md": "changed"}))
    assert keys(exp) == keys(exp, tree({**FILES, "experiment.yaml": "changed", "gitops-ml.yaml": "changed"}))


def test_side_trials__mode_changes__keys_change() -> None:
    listing = dict(tree().files)
    listing["train.py"] = dataclasses.replace(listing["train.py"], mode="100755")

    assert keys(experiment()) != keys(experiment(), dataclasses.replace(tree(), files=listing))


def test_side_trials__another_commit_with_the_same_content__keys_stay() -> None:
    assert keys(experiment()) == keys(experiment(), tree(commit="d" * 40))


def test_side_trials__data_missing__says_where() -> None:
    with pytest.raises(UserError) as caught:
        keys(experiment(data=(Data(name="train", uri="data/none.csv"),)))

    assert str(caught.value) == "experiment.yaml: data `train`: data/none.csv is not in commit cccccccccccc"


def test_side_trials__include_selects_nothing__says_so() -> None:
    with pytest.raises(UserError) as caught:
        keys(experiment(code=Code(include=("lib/**",))))

    assert str(caught.value) == (
        "experiment.yaml: no file of commit cccccccccccc is part of the code; `code.include` selects nothing: lib/**"
    )


def test_side_trials__nothing_tracked__says_what_to_do() -> None:
    with pytest.raises(UserError) as caught:
        keys(experiment(code=Code(exclude=("**",))))

    assert "only what git tracks is: `git add` the training's files" in str(caught.value)


def test_side_trials__bundle_files__code_environment_and_data_once() -> None:
    exp = experiment(
        code=Code(include=("train.py",)),
        environment=Environment(requirements="requirements.lock"),
        data=(Data(name="train", uri="data/train.csv"), Data(name="more", uri="data/more")),
    )

    (trial, _) = planning.side_trials(exp, tree(), SPECS, situation())

    assert [file.path for file in trial.files] == [
        "train.py",
        "requirements.lock",
        "data/train.csv",
        "data/more/a.csv",
        "data/more/b.csv",
    ]


def test_points__grid__product_in_declared_order() -> None:
    exp = experiment(sweep=Sweep(grid={"lr": (0.1, 0.2), "epochs": (1, 2)}))

    assert planning.points(exp) == (
        {"lr": 0.1, "epochs": 1},
        {"lr": 0.1, "epochs": 2},
        {"lr": 0.2, "epochs": 1},
        {"lr": 0.2, "epochs": 2},
    )


def test_points__random__same_on_every_machine() -> None:
    space = {"lr": Range(low=1e-4, high=1e-1, log=True), "act": ("relu", "gelu")}
    exp = experiment(sweep=Sweep(random=RandomSweep(n=3, seed=5, space=space)))

    assert planning.points(exp) == (
        {"act": "gelu", "lr": 0.016802},
        {"act": "gelu", "lr": 0.0671971},
        {"act": "gelu", "lr": 0.0584756},
    )


@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e6), st.integers(0, 1000))
def test_points__random__stays_in_range(low: float, high: float, seed: int) -> None:
    space = {"a": Range(low=low, high=high, log=True), "b": Range(low=-high, high=high), "c": (1, 2, 3)}
    for point in planning.points(experiment(sweep=Sweep(random=RandomSweep(n=4, seed=seed, space=space)))):
        assert low * (1 - 1e-5) <= point["a"] <= high * (1 + 1e-5)
        assert -high * (1 + 1e-5) <= point["b"] <= high * (1 + 1e-5)
        assert point["c"] in (1, 2, 3)


def test_side_trials__recorded_repeats__follow_their_first() -> None:
    first, other = planning.side_trials(experiment(), tree(), SPECS, situation())
    again = planning.next_repeat(first)

    trials = planning.side_trials(experiment(), tree(), SPECS, situation(first.key, again.key))

    assert [(t.seed, t.repeat) for t in trials] == [(0, 0), (0, 1), (1, 0)]
    assert trials[1].key == again.key
    assert trials[2].key == other.key


def test_side_trials__winner_in_another_order__stands_as_the_spec_has_it() -> None:
    params = {"lr": 0.1, "act": "relu"}
    exp = experiment(
        params=params, sweep=Sweep(grid={"lr": (0.1, 0.2), "act": ("relu", "tanh")}, confirm=(10,)), seeds=(0,)
    )

    trials = planning.side_trials(exp, tree(), SPECS, situation(), winner={"act": "relu", "lr": 0.2})

    assert list(trials[-1].point) == ["lr", "act"]


def test_side_trials__winner__trained_on_confirm_seeds() -> None:
    exp = experiment(sweep=Sweep(grid={"lr": (0.1, 0.2)}, confirm=(10, 11)), seeds=(0,))

    trials = planning.side_trials(exp, tree(), SPECS, situation(), winner={"lr": 0.2})

    assert [(t.params["lr"], t.seed, t.confirms) for t in trials] == [
        (0.1, 0, False),
        (0.2, 0, False),
        (0.2, 10, True),
        (0.2, 11, True),
    ]


def plan(head_exp: Experiment, base_exp: Experiment | None, *known: str, **fields: object) -> planning.ExperimentPlan:
    at = fields.pop("at", tree())
    train_same = bool(fields.pop("train_same", False))
    return planning.plan_experiment(
        head_exp, specs(head_exp, at), base(base_exp, tree()), situation(*known, **fields), train_same=train_same
    )


def test_plan_experiment__same_keys__trains_nothing() -> None:
    entry = plan(experiment(), experiment(description="other"))

    assert entry.relation is Relation.SAME
    assert {p.action for p in entry.trials()} == {Action.SKIP}


def test_plan_experiment__same_keys_on_the_baseline_ref__trains_what_has_no_record() -> None:
    first, second = keys(experiment())

    entry = plan(experiment(), experiment(), first, train_same=True)

    assert [p.action for p in entry.head] == [Action.REUSE, Action.RUN]
    assert second == entry.head[1].trial.key


def test_plan_experiment__one_seed_more__trains_that_one() -> None:
    entry = plan(experiment(seeds=(0, 1, 2)), experiment(), *keys(experiment()))

    assert entry.relation is Relation.CHANGED
    assert [(p.trial.seed, p.action) for p in entry.head] == [(0, Action.REUSE), (1, Action.REUSE), (2, Action.RUN)]


@pytest.mark.parametrize(
    ("missing", "action"),
    [(Missing.RUN, Action.RUN), (Missing.WARN, Action.SKIP), (Missing.FAIL, Action.SKIP)],
)
def test_plan_experiment__baseline_without_records__by_rule(missing: Missing, action: Action) -> None:
    head = experiment(params={"lr": 0.5, "epochs": 3}, baseline=BaselineRule(missing=missing))

    entry = plan(head, experiment())

    assert {p.action for p in entry.base} == {action}
    assert {p.action for p in entry.head} == {Action.RUN}


def test_plan_experiment__not_on_the_baseline__new() -> None:
    entry = plan(experiment(), None)

    assert (entry.relation, entry.base) == (Relation.NEW, ())


def test_plan_experiment__renamed__matched_by_path() -> None:
    entry = plan(experiment(name="new-name"), experiment(name="old-name"))

    assert (entry.renamed_from, entry.relation) == ("old-name", Relation.SAME)


def test_plan_experiment__force__trains_the_next_repeat() -> None:
    known = keys(experiment())

    entry = plan(experiment(), experiment(), *known, force=True)

    assert [(p.trial.seed, p.trial.repeat, p.action) for p in entry.head] == [
        (0, 0, Action.REUSE),
        (1, 0, Action.REUSE),
        (0, 1, Action.RUN),
        (1, 1, Action.RUN),
    ]
    assert len({p.trial.key for p in entry.head}) == 4


def test_plan_experiment__base_data_missing__no_baseline_with_the_reason() -> None:
    elsewhere = experiment(data=(Data(name="train", uri="data/gone.csv"),))

    entry = plan(experiment(), elsewhere)

    assert entry.relation is Relation.NO_BASELINE
    assert entry.baseline.note == (
        "cannot be planned there: experiment.yaml: data `train`: data/gone.csv is not in commit cccccccccccc"
    )


def test_plan__to_run__each_key_once_head_first() -> None:
    head = experiment(params={"lr": 0.5, "epochs": 3})
    entry = plan(head, experiment())
    twice = planning.Plan(head=tree().version, baseline=entry.baseline, experiments=(entry, entry))

    assert [p.trial.params["lr"] for p in twice.to_run()] == [0.5, 0.5, 0.1, 0.1]


def test_plan_to_json__same_plan__same_bytes_and_valid() -> None:
    entry = plan(experiment(), None, estimate=lambda _: Estimate(duration_s=2.0))
    made = planning.Plan(head=tree().version, baseline=entry.baseline, experiments=(entry,))

    texts = [json.dumps(planning.plan_to_json(made), allow_nan=False) for _ in range(2)]

    assert texts[0] == texts[1]
    schema = json.loads((resources.files("gitops_ml") / "schemas/plan.v1.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(json.loads(texts[0]))
    assert json.loads(texts[0])["to_run"] == keys(experiment())


def test_removed_experiments__gone_from_head__named() -> None:
    other = experiment(name="other", path="other.yaml")

    removed = planning.removed_experiments(specs(experiment(), tree()), base(other, tree()))

    assert [entry.experiment.name for entry in removed] == ["other"]


def test_differences__documents__places_in_order() -> None:
    one, two = (
        planning.side_trials(exp, at, SPECS, situation())[0].document
        for exp, at in (
            (experiment(), tree()),
            (experiment(params={"lr": 0.2}), tree({**FILES, "train.py": "new", "data/train.csv": "new"})),
        )
    )

    found = [d.where for d in planning.differences(one, two)]

    assert found == ["code", "data.train", "params.epochs", "params.lr"]


@given(
    st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_nan=False, allow_infinity=False), max_size=5)
)
def test_digest__key_order__does_not_matter(values: dict[str, float]) -> None:
    shuffled = dict(reversed(list(values.items())))

    assert planning.digest(values) == planning.digest(shuffled)


def test_expected_duration__median() -> None:
    assert planning.expected_duration([1.0, 9.0, 2.0]) == 2.0
    assert planning.expected_duration([]) is None


def test_keys__all_seeds_and_points__distinct() -> None:
    exp = experiment(sweep=Sweep(grid={"lr": (0.1, 0.2)}), seeds=(0, 1, 2))

    found = keys(exp)

    assert len(found) == len(set(found)) == len(list(itertools.product((0.1, 0.2), (0, 1, 2))))


DVC = "outs:\n- md5: 0123456789abcdef0123456789abcdef\n  size: 3\n  hash: md5\n  path: big.csv\n"


def kept_by_dvc(text: str, config: str = "", file: str = "data/big.csv.dvc") -> planning.Trial:
    files = {**FILES, file: text, **({".dvc/config": config} if config else {})}
    (one,) = planning.side_trials(
        experiment(data=(Data(name="train", uri="data/big.csv"),), code=Code(exclude=(".dvc/**",)), seeds=(0,)),
        tree(files),
        SPECS,
        situation(),
    )
    return one


def test_side_trials__data_that_dvc_keeps__is_pinned_by_its_md5_alone() -> None:
    one = kept_by_dvc(DVC)

    assert one.document["data"] == [["train", "md5:0123456789abcdef0123456789abcdef"]]
    assert one.sources == {"train": {"kind": "dvc", "md5": "0123456789abcdef0123456789abcdef", "layout": "files/md5"}}
    assert "data/big.csv.dvc" not in [file.path for file in one.files]
    assert kept_by_dvc(DVC + "desc: of May\n").key == one.key
    assert kept_by_dvc(DVC.replace("0123", "ffff")).key != one.key


def test_side_trials__data_of_a_dvc_pipeline__is_found_in_its_lock() -> None:
    lock = (
        "schema: '2.0'\nstages:\n  prepare:\n    cmd: make\n    outs:\n    - path: data/big.csv\n      hash: md5\n"
        "      md5: 0123456789abcdef0123456789abcdef\n"
    )

    assert kept_by_dvc(lock, file="dvc.lock").document["data"] == kept_by_dvc(DVC).document["data"]


def test_side_trials__dvc_remote__goes_along_and_is_not_in_the_key() -> None:
    config = "[core]\n    remote = a\n['remote \"a\"']\n    url = s3://acme/dvc\n"

    one = kept_by_dvc(DVC, config)

    assert one.sources["train"]["remote"] == "s3://acme/dvc"
    assert one.key == kept_by_dvc(DVC).key


def test_side_trials__place_and_digest_of_data__the_key_has_the_digest() -> None:
    commit, sha = "0" * 40, "sha256:" + "1" * 64

    def key(version: str) -> str:
        (only,) = keys(experiment(data=(Data(name="d", uri="hf://a/b/c", version=version),), seeds=(0,)))
        return only

    assert key(f"{commit}+{sha}") == key(f"{'2' * 40}+{sha}") == key(sha)
    assert key(commit) != key("2" * 40)
