"""Which commit head is compared with, over real repositories."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitops_ml.baselines import InvalidSpecError, Planner, Wish
from gitops_ml.errors import UserError
from gitops_ml.git import Repository
from gitops_ml.planning import Action, Plan, Relation, Situation
from tests.fakes.repositories import ENVIRON, clone, commit, git, make_remote, make_repository, write

SPEC = """\
version: 1
name: tiny
run: python train.py ${params.lr}
code: {include: ["*.py"]}
params: {lr: 0.1}
metrics: {read: [m.json], track: [{name: loss, goal: minimize}]}
"""
INTERPRETER = {"python": "3.11", "platform": "linux-x86_64", "packages": []}


@contextlib.contextmanager
def planner(folder: Path, known: set[str] | None = None, **fields: object) -> Iterator[Planner]:
    with Repository.find(folder, ENVIRON) as repository:
        yield Planner(
            repository,
            globs=("experiments/**/*.yaml", "experiment.yaml"),
            remote="origin",
            situation=Situation(known=known or frozenset(), interpreter=INTERPRETER),
            winner=lambda experiment, planned: None,
            **{"default_branch": lambda: "main", **fields},
        )


def plan(folder: Path, wish: Wish | None = None, known: set[str] | None = None) -> Plan:
    with planner(folder, known) as made:
        return made.plan(wish or Wish())


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    remote = make_remote(tmp_path / "remote.git")
    return make_repository(tmp_path / "r", {"experiment.yaml": SPEC, "train.py": "1", "README.md": "x"}, remote=remote)


def branch_with(folder: Path, files: dict[str, str]) -> str:
    git(folder, "switch", "-q", "-c", "change")
    return commit(folder, files)


def chosen(made: Plan) -> tuple[str | None, str, int | None]:
    choice = made.baseline
    return (choice.version.commit if choice.version else None, choice.chosen, choice.behind)


def test_plan__first_commit_of_main__no_baseline_and_all_runs(repository):
    made = plan(repository)

    assert chosen(made) == (None, "none", None)
    assert made.baseline.note == "this is the first commit of main"
    assert [e.relation for e in made.experiments] == [Relation.NO_BASELINE]
    assert [p.action for p in made.to_run()] == [Action.RUN]


def test_plan__on_main__first_parent(repository):
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, {"train.py": "2"})

    made = plan(repository)

    assert chosen(made) == (first, "first parent", None)
    assert len(made.to_run()) == 2


def test_plan__on_main_nothing_changed__trains_what_has_no_record(repository):
    commit(repository, {"README.md": "y"})

    made = plan(repository)

    assert made.experiments[0].relation is Relation.SAME
    assert len(made.to_run()) == 1


def test_plan__branch__merge_base_and_how_far_behind(repository):
    base = git(repository, "rev-parse", "HEAD")
    branch_with(repository, {"train.py": "2"})
    git(repository, "switch", "-q", "main")
    commit(repository, {"train.py": "3"})
    commit(repository, {"train.py": "4"})
    git(repository, "push", "-q", "origin", "main")
    git(repository, "switch", "-q", "change")

    made = plan(repository)

    assert chosen(made) == (base, "merge-base", 2)
    assert made.baseline.sentence() == (
        f"compared with {base[:12]}, the merge-base with main (2 commits behind the tip of main)"
    )
    assert made.experiments[0].relation is Relation.CHANGED


def test_plan__branch_that_changes_no_experiment__trains_nothing(repository):
    branch_with(repository, {"README.md": "y", "experiment.yaml": "# a comment\n" + SPEC})

    made = plan(repository)

    assert made.experiments[0].relation is Relation.SAME
    assert made.to_run() == ()


def test_plan__unchanged_experiment_asked_for_by_name__trained(repository):
    branch_with(repository, {"README.md": "y"})

    assert len(plan(repository, Wish(names=("tiny",))).to_run()) == 1


def test_plan__at_tip__compared_with_the_newest_main(repository):
    branch_with(repository, {"experiment.yaml": SPEC + "baseline: {at: tip}\n", "train.py": "2"})
    git(repository, "switch", "-q", "main")
    tip = commit(repository, {"train.py": "3"})
    git(repository, "push", "-q", "origin", "main")
    git(repository, "switch", "-q", "change")

    assert chosen(plan(repository)) == (tip, "tip", 0)


def test_plan__uncommitted_work__compared_with_head(repository):
    head = git(repository, "rev-parse", "HEAD")
    write(repository, {"train.py": "2"})

    made = plan(repository)

    assert made.head.dirty
    assert chosen(made) == (head, "HEAD", None)
    assert made.experiments[0].relation is Relation.CHANGED


def test_plan__untracked_file_that_the_spec_selects__is_uncommitted_work(repository):
    write(repository, {"helper.py": "1", "notes.txt": "not selected"})

    made = plan(repository)

    assert made.head.dirty
    assert [f.path for f in made.experiments[0].head[0].trial.files] == ["helper.py", "train.py"]


def test_plan__untracked_spec__is_planned(repository):
    write(repository, {"experiments/new.yaml": SPEC.replace("tiny", "other")})

    assert [e.experiment.name for e in plan(repository).experiments] == ["tiny", "other"]


def test_plan__nothing_committed_yet__plans_the_work_tree(tmp_path):
    folder = make_repository(tmp_path / "r")
    write(folder, {"experiment.yaml": SPEC, "train.py": "1"})
    git(folder, "add", "train.py")

    made = plan(folder)

    assert made.baseline.note == "nothing is committed yet"
    assert len(made.to_run()) == 1


def test_plan__detached_at_mains_tip__first_parent(repository):
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, {"train.py": "2"})
    git(repository, "push", "-q", "origin", "main")
    git(repository, "switch", "-q", "--detach")

    assert chosen(plan(repository)) == (first, "first parent", None)


def test_plan__no_common_commit__not_found_and_says_so(repository):
    git(repository, "switch", "-q", "--orphan", "other")
    commit(repository, {"experiment.yaml": SPEC, "train.py": "2"})

    made = plan(repository)

    assert chosen(made) == (None, "not found", None)
    assert made.baseline.note == "head and main have no commit in common"


def test_plan__unknown_ref__not_found_and_says_so(repository):
    branch_with(repository, {"experiment.yaml": f"{SPEC}baseline: {{ref: mian}}\n"})

    made = plan(repository)

    assert chosen(made) == (None, "not found", None)
    assert made.baseline.note == "there is no branch or commit `mian` here; `baseline.ref` names it"


def test_plan__spec_without_a_ref__compared_with_the_default_branch(repository):
    git(repository, "switch", "-q", "-c", "trunk")
    base = commit(repository, {"README.md": "y"})
    branch_with(repository, {"train.py": "2"})

    with planner(repository, default_branch=lambda: "trunk") as made:
        found = made.plan(Wish())

    assert chosen(found) == (base, "merge-base", 0)
    assert found.baseline.sentence() == f"compared with {base[:12]}, the merge-base with trunk (the tip of trunk)"


def test_plan__detached_on_a_branchs_commit__merge_base(repository):
    base = git(repository, "rev-parse", "HEAD")
    branch_with(repository, {"train.py": "2"})
    git(repository, "switch", "-q", "--detach")

    assert chosen(plan(repository)) == (base, "merge-base", 0)


def test_plan__shallow_clone_of_a_branch__finds_the_merge_base(repository, tmp_path):
    base = git(repository, "rev-parse", "HEAD")
    branch_with(repository, {"train.py": "2"})
    commit(repository, {"train.py": "3"})
    git(repository, "push", "-q", "origin", "change")
    shallow = clone(tmp_path / "remote.git", tmp_path / "shallow", "--depth=1", "--branch=change")

    made = plan(shallow)

    assert chosen(made) == (base, "merge-base", 0)
    assert made.experiments[0].relation is Relation.CHANGED


def test_plan__shallow_clone_again_after_main_has_moved__finds_the_same(repository, tmp_path):
    """A second fetch offers commits whose trees the first one left out."""
    for number in range(60):
        base = commit(repository, {"notes.md": str(number)})
    branch_with(repository, {"train.py": "2"})
    commit(repository, {"train.py": "3"})
    git(repository, "switch", "-q", "main")
    for number in range(3):
        commit(repository, {"README.md": str(number)})
    git(repository, "push", "-q", "origin", "main", "change")
    shallow = clone(tmp_path / "remote.git", tmp_path / "shallow", "--depth=1", "--branch=change")
    found = [chosen(plan(shallow)), chosen(plan(shallow))]

    commit(repository, {"5/notes.md": "5"})
    git(repository, "push", "-q", "origin", "main")

    assert [*found, chosen(plan(shallow))] == [(base, "merge-base", behind) for behind in (3, 3, 4)]


def test_plan__push_event_names_the_commit_before__compared_with_it(repository):
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, {"train.py": "2"})
    commit(repository, {"train.py": "3"})

    assert chosen(plan(repository, Wish(before=first))) == (first, "before the push", None)


def test_plan__base_given__compared_with_it(repository):
    first = git(repository, "rev-parse", "HEAD")
    commit(repository, {"train.py": "2"})
    head = commit(repository, {"train.py": "3"})

    made = plan(repository, Wish(head=head, base=first))

    assert chosen(made) == (first, "given", None)


def test_plan__no_such_branch__says_what_names_it(repository):
    branch_with(repository, {"experiment.yaml": SPEC + "baseline: {ref: trunk}\n"})

    made = plan(repository)

    assert made.baseline.note == "there is no branch or commit `trunk` here; `baseline.ref` names it"


def test_plan__missing_ancestor__nearest_commit_with_records(repository):
    old = git(repository, "rev-parse", "HEAD")
    known = {planned.trial.key for planned in plan(repository).to_run()}
    commit(repository, {"train.py": "2"})
    base = commit(repository, {"train.py": "3"})
    git(repository, "push", "-q", "origin", "main")
    branch_with(repository, {"experiment.yaml": SPEC + "baseline: {missing: ancestor}\n", "train.py": "4"})

    entry = plan(repository, known=known).experiments[0]

    assert entry.baseline.version.commit == old
    assert entry.baseline.sentence() == (
        f"compared with {old[:12]}, an earlier commit of main (2 commits behind the tip of main); "
        f"the nearest with records, 2 before the merge-base"
    )
    assert [p.action for p in entry.base] == [Action.REUSE]
    assert base != old


def test_plan__spec_invalid__findings_with_place(repository):
    write(repository, {"experiment.yaml": SPEC + "seed: 3\n"})

    with pytest.raises(InvalidSpecError) as caught:
        plan(repository)

    assert str(caught.value) == "experiment.yaml:7:1: unknown key `seed`; did you mean `seeds`? [unknown-key]"
    assert caught.value.exit_code == 1


def test_plan__spec_on_main_invalid__no_baseline_with_the_reason(repository):
    commit(repository, {"experiment.yaml": SPEC + "seed: 3\n"})
    git(repository, "push", "-q", "origin", "main")
    branch_with(repository, {"experiment.yaml": SPEC})

    entry = plan(repository).experiments[0]

    assert entry.relation is Relation.NO_BASELINE
    assert entry.baseline.note == "the spec there is not valid: unknown key `seed`; did you mean `seeds`?"


def test_plan__unknown_experiment__names_the_known(repository):
    with pytest.raises(UserError) as caught:
        plan(repository, Wish(names=("tyni",)))

    commit_id = git(repository, "rev-parse", "HEAD")[:12]
    assert str(caught.value) == f"no experiment is called `tyni` at {commit_id}; known are: tiny"


def test_plan__unknown_revision__says_so(repository):
    with pytest.raises(UserError) as caught:
        plan(repository, Wish(head="nowhere"))

    assert str(caught.value) == "`nowhere` names no commit here"


def test_plan__no_spec__says_where_it_looked(tmp_path):
    folder = make_repository(tmp_path / "r", {"train.py": "1"})

    with pytest.raises(UserError) as caught:
        plan(folder)

    assert str(caught.value).startswith("no spec is in ")
    assert "looked for: experiments/**/*.yaml, experiment.yaml" in str(caught.value)


def test_plan__two_specs_one_name__both_named(repository):
    write(repository, {"experiments/again.yaml": SPEC})

    with pytest.raises(UserError) as caught:
        plan(repository)

    assert str(caught.value) == "experiments/again.yaml and experiment.yaml both call themselves `tiny`"


def test_plan__removed_experiment__named(repository):
    commit(repository, {"experiments/b.yaml": SPEC.replace("tiny", "other")})
    git(repository, "push", "-q", "origin", "main")
    git(repository, "switch", "-q", "-c", "change")
    git(repository, "rm", "-q", "experiments/b.yaml")
    git(repository, "commit", "-q", "-m", "remove")

    relations = {e.experiment.name: e.relation for e in plan(repository).experiments}

    assert relations == {"tiny": Relation.SAME, "other": Relation.REMOVED}


def test_plan__spec_is_a_symbolic_link__not_followed(repository):
    (repository / "experiments").mkdir()
    (repository / "experiments/x.yaml").symlink_to("/etc/passwd")
    git(repository, "add", "experiments/x.yaml")

    with pytest.raises(InvalidSpecError) as caught:
        plan(repository)

    assert str(caught.value) == (
        "experiments/x.yaml:1:1: a spec is a file of its own, not a symbolic link; "
        "put the text here, or leave the link out of `specs` [symlink]"
    )
