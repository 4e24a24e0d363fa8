"""Files of submodules at their recorded commits, read from what the user's clone holds of them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.datasets.local import git_folder
from gitops_ml.errors import GitError, UserError
from gitops_ml.git.objects import Batch, parse_listing, tree_path
from gitops_ml.git.process import run, what_git_said
from gitops_ml.planning import TreeFile

_LIMIT_S = 600.0


def module_files(
    work_tree: Path,
    holder: Path,
    path: str,
    commit: str,
    *,
    command: Callable[[Sequence[str]], list[str]],
    env: Mapping[str, str],
    outermost: str = "",
    prefix: str = "",
) -> Iterator[tuple[TreeFile, bytes, Path]]:
    """Yield (file, content, git folder) of a submodule's commit, and of the submodules in it; paths from its root.

    Args:
        work_tree: of the repository that holds the submodule.
        holder: the git folder of that repository.
        path: the submodule, from that repository's root.
        commit: the recorded one.
        command: makes git's command line.
        env: for git.
        outermost: of nested submodules the one that the user's repository holds.
        prefix: of nested submodules, where this one's holder stands in the outermost one.

    Raises:
        UserError: the commit is not in this clone.
    """
    tree_path(path)  # a tree that was not made by git may hold anything

    def git(folder: Path, *args: str) -> tuple[int, bytes, str]:
        done = run(command([f"--git-dir={folder}", *args]), work_tree, env, b"", _LIMIT_S, network=False)
        return done.returncode, done.stdout, what_git_said(done)

    candidates = [git_folder(work_tree / path), holder / "modules" / path]
    folders = [one for one in candidates if (one / "objects").is_dir()]
    folder = next((one for one in folders if git(one, "cat-file", "-e", f"{commit}^{{tree}}")[0] == 0), None)
    if folder is None:
        recursive, place = (" --recursive", f"{outermost}/{prefix}".rstrip("/")) if outermost else ("", path)
        raise UserError(
            f"{place} is a submodule, and this clone does not have its commit "
            f"{commit[:12]}: git submodule update --init{recursive} -- {outermost or path}"
        )
    code, listing, said = git(folder, "ls-tree", "-r", "-z", "--full-tree", commit)
    if code:
        raise GitError(f"git cannot list the submodule {path} at {commit[:12]}: {said}")
    modules = []
    batch = Batch(command([f"--git-dir={folder}", "cat-file", "--batch"]), work_tree, env)
    with contextlib.closing(batch):
        for file in parse_listing(listing):
            if file.mode == "160000":
                modules.append(file)
                continue
            (found,) = batch.ask([file.oid])
            if found is None:
                raise GitError(f"object {file.oid} of the submodule {path} is not in this clone")
            yield TreeFile(prefix + file.path, file.mode, file.oid), found.data, folder
    for module in modules:
        yield from module_files(
            work_tree / path,
            folder,
            module.path,
            module.oid,
            command=command,
            env=env,
            outermost=outermost or path,
            prefix=f"{prefix}{module.path}/",
        )
