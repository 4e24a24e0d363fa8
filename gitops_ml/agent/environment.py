"""What a training runs in: which Python, which packages, and which variables it sees."""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.agent.files import Lock, acquire_patiently
from gitops_ml.agent.log import Log
from gitops_ml.agent.orders import Orders
from gitops_ml.agent.processes import Limits, Stop, StoppedError, run

_PASSED_ON = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES",
})  # fmt: skip
_PASSED_ON_PREFIXES = ("LC_", "NVIDIA_")
_INSTALLER_PREFIXES = ("PIP_", "SSL_CERT_", "REQUESTS_CA_")
_INSTALLER = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"})


class EnvironmentFailure(Exception):  # noqa: N818 not an error of ours: the spec asks for what cannot be had
    """The environment cannot be made; the text says why and what to do."""


def passed_on(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what a training may see of its caller's environment: an allow-list, so that no credential slips in."""
    return {k: v for k, v in environ.items() if k in _PASSED_ON or k.startswith(_PASSED_ON_PREFIXES)}


def for_installer(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what pip may see besides: where the package index is. It may hold a credential."""
    return {k: v for k, v in environ.items() if k in _INSTALLER or k.startswith(_INSTALLER_PREFIXES)}


def prepare(orders: Orders, workdir: Path, *, scratch: Path, cache: Path, log: Log, stop: Stop) -> tuple[Path, ...]:
    """Return the folders that stand first on the training's PATH, with ``python`` in them.

    Args:
        orders: what the spec asks for.
        workdir: where the requirements file stands.
        scratch: an own folder of this attempt.
        cache: where environments are kept for all attempts on this machine.
        log: takes the installer's output.
        stop: may end the preparation.

    Raises:
        EnvironmentFailure: the Python is not here, or the packages cannot be installed.
        StoppedError: asked from outside to end.
    """
    python = find_python(orders.python, os.environ)
    if orders.requirements is None:
        return _folders_with_python(python, scratch)
    requirements = workdir / orders.requirements
    if not requirements.is_file():
        raise EnvironmentFailure(f"environment.requirements: {orders.requirements} is not in the bundle")
    return (_cached_environment(python, requirements, cache, log, stop) / "bin",)


def find_python(version: str | None, environ: Mapping[str, str]) -> Path:
    """Return the interpreter of that version; None: the one that runs the agent.

    Raises:
        EnvironmentFailure: it is not on this machine.
    """
    if version is None or _fits(platform.python_version(), version):
        return Path(sys.executable)
    seen = []
    for candidate in _pythons(version, environ):
        found = version_of(candidate)
        if found is not None:
            if _fits(found, version):
                return candidate
            seen.append(found)
    others = ", ".join(sorted({platform.python_version(), *seen}))
    raise EnvironmentFailure(
        f"environment.python: Python {version} is not on this machine (found: {others}); "
        f"install it, so that `python{version}` is on PATH, or name one that is there"
    )


def _pythons(version: str, environ: Mapping[str, str]) -> Iterator[Path]:
    minor = ".".join(version.split(".")[:2])
    path = environ.get("PATH", os.defpath)
    for name in (f"python{version}", f"python{minor}", "python3"):
        for folder in path.split(os.pathsep):
            if found := shutil.which(name, path=folder):
                yield Path(found)
    # A shim of pyenv refuses a version that is not chosen for the folder; the real ones stand here.
    root = environ.get("PYENV_ROOT") or f"{environ.get('HOME', '')}/.pyenv"
    yield from sorted(Path(root).glob(f"versions/{minor}*/bin/python{minor}"), reverse=True)
    yield from sorted(
        Path(environ.get("HOME", "")).glob(f".local/share/uv/python/cpython-{minor}*/bin/python{minor}"), reverse=True
    )


def version_of(python: Path) -> str | None:
    """Return what Python an interpreter is; None: it does not run."""
    code = "import platform; print(platform.python_version())"
    try:
        done = subprocess.run(
            [python, "-I", "-c", code],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _fits(found: str, wanted: str) -> bool:
    return found.split(".")[: wanted.count(".") + 1] == wanted.split(".")


def _folders_with_python(python: Path, scratch: Path) -> tuple[Path, ...]:
    """Return folders in which ``python`` and ``python3`` are this interpreter, and its scripts."""
    home = python.parent
    if all((home / name).exists() and (home / name).samefile(python) for name in ("python", "python3")):
        return (home,)
    # Not links: through one from elsewhere a virtual environment does not find itself.
    folder = scratch / "bin"
    folder.mkdir(exist_ok=True)
    for name in ("python", "python3"):
        script = folder / name
        script.write_text(f'#!/bin/sh\nexec {_quoted(str(python))} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return folder, home


def _cached_environment(python: Path, requirements: Path, cache: Path, log: Log, stop: Stop) -> Path:
    version = version_of(python)
    identity = [version, platform.system(), platform.machine(), requirements.read_text(errors="surrogateescape")]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    folder = cache / "environments" / digest[:32]
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Built in place, as scripts hold the path; the mark is written last, so a half-built one is never used.
    mark = folder / "complete"
    if mark.exists():
        log.say(f"environment {digest[:12]} (Python {version}) from the cache")
        return folder
    lock = Lock(folder.with_suffix(".lock"))
    acquire_patiently(lock, stop.wait)
    try:
        if not mark.exists():
            shutil.rmtree(folder, ignore_errors=True)
            log.say(f"building environment {digest[:12]}: Python {version}, {requirements.name}")
            pip = pip_for(python)
            venv = [str(python), "-I", "-m", "venv", *(["--without-pip"] if pip else []), str(folder)]
            _step(venv, requirements.parent, log, stop)
            inside = folder / "bin" / "python"
            install = [
                *(_into(pip, inside) if pip else [str(inside), "-I", "-m", "pip"]),
                "install", "--require-hashes", "--no-input", "--disable-pip-version-check", "--quiet",
                "--requirement", str(requirements),
            ]  # fmt: skip
            _step(install, requirements.parent, log, stop)
            mark.touch()
    finally:
        lock.release()
    return folder


def pip_for(python: Path) -> list[str] | None:
    """Return a pip that can install for this Python; None: there is none (of 22.3 or newer).

    The Python's own, or the one that came with us: images without pip are common. With ``--python`` it installs into
    another environment, and a virtual environment with a pip of its own takes seconds longer to make.
    """
    command = [str(python), "-I", "-m", "pip"]
    code = "import pip; print(*pip.__version__.split('.')[:2])"
    with contextlib.suppress(OSError, subprocess.TimeoutExpired, ValueError):
        done = subprocess.run([python, "-I", "-c", code], check=False, capture_output=True, text=True, timeout=20)
        if tuple(map(int, done.stdout.split())) >= (22, 3):
            return command
    brought = Path(__file__).parents[2] / "pip.zip"
    return [sys.executable, "-I", str(brought / "pip"), "--python", str(python)] if brought.is_file() else None


def _into(pip: Sequence[str], python: Path) -> list[str]:
    """Return the pip for another Python than the one that it was found for."""
    plain = pip[: pip.index("--python")] if "--python" in pip else pip
    return [*plain, "--python", str(python)]


def _step(command: Sequence[str], cwd: Path, log: Log, stop: Stop) -> None:
    env = {**passed_on(os.environ), **for_installer(os.environ)}
    ending = run(command, cwd=cwd, env=env, log=log, stop=stop, limits=Limits(max_duration_s=3600))
    if stop.ending is not None:
        raise StoppedError(stop.ending)
    if ending.outcome != "succeeded":
        said = f" ({log.progress})" if log.progress else ""
        raise EnvironmentFailure(f"the environment could not be built{said}; the log says more")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
