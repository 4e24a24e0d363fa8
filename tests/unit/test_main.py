"""argv to exit code, over commands that are made here."""

import errno
import io
import os
import subprocess
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gitops_ml import main as main_module
from gitops_ml.errors import DeniedError, ExitCode, ServiceError, TrialError, UserError, worst
from gitops_ml.main import COMMANDS, main, parser
from gitops_ml.tools import Tools, installed_packages


def tools(folder: Path) -> Tools:
    return Tools(
        cwd=folder, environ={}, out=io.StringIO(), err=io.StringIO(), now=lambda: datetime(2026, 1, 1, tzinfo=UTC)
    )


def with_command(act: Callable[[], int]) -> str:
    """Put a command where the commands are, and return its name."""
    module = types.ModuleType("gitops_ml.commands.schema")
    module.configure = lambda parser: None  # type: ignore[attr-defined]
    module.run = lambda args, tools: act()  # type: ignore[attr-defined]
    sys.modules[module.__name__] = module
    return "schema"


@pytest.fixture
def command(request: pytest.FixtureRequest):
    real = sys.modules.get("gitops_ml.commands.schema")
    yield with_command
    if real is None:
        sys.modules.pop("gitops_ml.commands.schema", None)
    else:
        sys.modules["gitops_ml.commands.schema"] = real


def raising(error: BaseException) -> Callable[[], int]:
    def act() -> int:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("mend it"), 2),
        (TrialError("mend it"), 4),
        (ServiceError("mend it"), 5),
        (DeniedError("mend it"), 6),
    ],
)
def test_main__user_error__its_text_alone_and_its_code(tmp_path, command, error, code) -> None:
    surroundings = tools(tmp_path)

    assert main([command(raising(error))], surroundings) == code
    assert surroundings.err.getvalue() == "mend it\n"


def test_main__nothing_said__which_commands_there_are(tmp_path) -> None:
    surroundings = tools(tmp_path)

    assert main([], surroundings) == ExitCode.USAGE
    assert surroundings.err.getvalue() == parser().format_help().rstrip() + "\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "--jobz", "3"], "there is no option `--jobz`; did you mean `--jobs`?"),
        (["doctor", "--tokn=glpat-canary"], "there is no option `--tokn`; known are: --forge, --backend, --format"),
        (["doctor", "fast"], "there is one word too many: `fast`"),
    ],
)
def test_main__word_that_the_command_does_not_take__is_named_with_what_it_takes(tmp_path, capsys, words, said) -> None:
    assert main(words, tools(tmp_path)) == ExitCode.USAGE

    usage, _, last = capsys.readouterr().err.rpartition("\n" + f"gitops-ml {words[0]}: ")
    assert usage.startswith(f"usage: gitops-ml {words[0]} [-h] ")
    assert last == f"error: {said}\n"


def test_main__interrupted__130(tmp_path, command) -> None:
    surroundings = tools(tmp_path)

    assert main([command(raising(KeyboardInterrupt()))], surroundings) == ExitCode.INTERRUPTED


def test_main__bug__traceback_and_where_to_report(tmp_path, command) -> None:
    surroundings = tools(tmp_path)

    assert main([command(raising(ZeroDivisionError("oops")))], surroundings) == ExitCode.BUG
    said = surroundings.err.getvalue()
    assert "ZeroDivisionError: oops" in said
    assert f"This is a bug in gitops-ml {main_module.__version__}" in said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; free some space and run it again"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x/.gitops-ml"),
            "/x/.gitops-ml: Permission denied; change its rights, or work where you may write",
        ),
    ],
)
def test_main__machine_refuses__what_and_where_without_traceback(tmp_path, command, error, said) -> None:
    surroundings = tools(tmp_path)

    assert main([command(raising(error))], surroundings) == ExitCode.USAGE
    assert surroundings.err.getvalue() == f"{said}\n"


def test_main__file_not_found__is_our_bug(tmp_path, command) -> None:
    assert main([command(raising(FileNotFoundError(errno.ENOENT, "No such file")))], tools(tmp_path)) == ExitCode.BUG


def test_main__output_cannot_be_written__says_so(tmp_path, command) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    surroundings = tools(tmp_path)
    surroundings.out = Full()

    assert main([command(lambda: 0)], surroundings) == ExitCode.USAGE
    assert "No space left on device" in surroundings.err.getvalue()


def test_main__folder_named_like_a_command__is_a_folder(tmp_path, command) -> None:
    (tmp_path / "run").mkdir()

    assert main(["-C", "run", command(lambda: 0)], tools(tmp_path)) == ExitCode.OK


def test_main__unknown_command__usage(tmp_path) -> None:
    surroundings = tools(tmp_path)

    assert main(["valdate"], surroundings) == ExitCode.USAGE
    assert surroundings.err.getvalue() == "no command is called `valdate`; did you mean `validate`?\n"


def test_main__encoding_without_the_characters__loses_no_sign(tmp_path) -> None:
    folder = tmp_path / "experiments"
    folder.mkdir()
    (folder / "a\u22121 \u4e2d.yaml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "gitops_ml", "validate"]

    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": _root(), "PYTHONIOENCODING": "ascii"},
        timeout=30,
    )

    assert done.stdout.startswith(rb"experiments/a-1 \u4e2d.yaml:1:1: ")
    assert done.returncode == ExitCode.FINDINGS


@pytest.mark.parametrize("name", COMMANDS)
def test_parser__each_command__has_help(name) -> None:
    text = parser(name).format_help()

    assert name in text


def test_main__output_closed_early__quiet(tmp_path) -> None:
    command = [sys.executable, "-m", "gitops_ml", "schema", "experiment"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, env={**os.environ, "PYTHONPATH": _root()}
    ) as process:
        process.stdout.close()
        error = process.stderr.read()
        code = process.wait(timeout=30)

    assert (code, error) == (0, b"")


def _root() -> str:
    return str(Path(__file__).parents[2])


@pytest.mark.parametrize(
    ("codes", "expected"),
    [((), 0), ((0, 1), 1), ((1, 4), 4), ((4, 5), 5), ((5, 6), 6), ((6, 2), 2), ((2, 130), 130), ((130, 3), 3)],
)
def test_worst__several_outcomes__by_precedence(codes, expected) -> None:
    assert worst(*codes) == expected


def test_installed_packages__names_and_versions__ours_left_out(tmp_path) -> None:
    for name in ("Py_Yaml-6.0.1.dist-info", "old-1.0-py3.11.egg-info", "gitops_ml-0.1.dist-info", "numpy", "x.py"):
        (tmp_path / name).mkdir()
    shadowed = tmp_path / "later"
    (shadowed / "py_yaml-5.0.dist-info").mkdir(parents=True)

    found = installed_packages([str(tmp_path), str(shadowed), str(tmp_path / "missing.zip")])

    assert found == ["old==1.0", "py-yaml==6.0.1"]


def test_entry_point__terminal_of_another_encoding__escapes_what_it_lacks(tmp_path) -> None:
    (tmp_path / "größe.yaml").write_text("name: x\n", encoding="utf-8")
    environ = {**os.environ, "PYTHONPATH": _root(), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}

    done = subprocess.run(
        [sys.executable, "-m", "gitops_ml", "validate", "größe.yaml"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == ExitCode.FINDINGS
    assert b"gr\\xf6\\xdfe.yaml:1:1: " in done.stdout
    assert b"Traceback" not in done.stderr
