"""How ``ci`` speaks to the CI: folded groups, annotations, outputs, the job summary."""

import contextlib
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gitops_ml.diagnostics import FORMATS, Diagnostic
from gitops_ml.errors import UserError
from gitops_ml.tools import Tools
from gitops_ml.values import dataclass

# GitHub refuses a job summary over 1 MiB, and the job stays green.
MAX_SUMMARY_BYTES = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """The CI's log and files, as far as it has them."""

    tools: Tools
    dotenv: Path | None = None
    """Also write outputs here, as GitLab's dotenv reports have them."""

    @property
    def _github(self) -> bool:
        return self.tools.environ.get("GITHUB_ACTIONS") == "true"

    @property
    def _gitlab(self) -> bool:
        return self.tools.environ.get("GITLAB_CI") == "true"

    @contextlib.contextmanager
    def group(self, title: str) -> Iterator[None]:
        """Fold what is printed meanwhile under a title of ours."""
        name, now = re.sub(r"\W+", "_", title.lower()), int(self.tools.now().timestamp())
        if self._github:
            self.tools.note(f"::group::{title}")
        elif self._gitlab:
            self.tools.note(f"\x1b[0Ksection_start:{now}:{name}\r\x1b[0K{title}")
        else:
            self.tools.note(f"== {title}")
        try:
            yield
        finally:
            self.tools.out.flush()
            if self._github:
                self.tools.note("::endgroup::")
            elif self._gitlab:
                self.tools.note(f"\x1b[0Ksection_end:{int(self.tools.now().timestamp())}:{name}\r\x1b[0K")

    @contextlib.contextmanager
    def untrusted(self) -> Iterator[None]:
        """Let nothing that is printed meanwhile be a command to the runner: the log is that of a training."""
        if not self._github:
            yield
            return
        token = secrets.token_hex(16)
        self.tools.note(f"::stop-commands::{token}")
        try:
            yield
        finally:
            self.tools.out.flush()
            self.tools.note(f"::{token}::")

    def annotate(self, findings: Sequence[Diagnostic]) -> None:
        """Show findings on their lines."""
        if text := FORMATS["github" if self._github else "text"](findings):
            self.tools.say(text)

    def outputs(self, values: Mapping[str, str]) -> None:
        """Set the step's outputs. No value can end its own entry or begin another."""
        clean = {name: re.sub(r"[\x00-\x1f\x7f\u0085\u2028\u2029]", " ", value) for name, value in values.items()}
        if path := self.tools.environ.get("GITHUB_OUTPUT"):
            mark = f"end-{secrets.token_hex(16)}"
            _append(Path(path), "".join(f"{name}<<{mark}\n{value}\n{mark}\n" for name, value in clean.items()))
        if self.dotenv is not None:
            lines = (f"{name.upper().replace('-', '_')}={value}\n" for name, value in clean.items())
            _append(self.dotenv, "".join(lines))

    def summary(self, markdown: str) -> None:
        """Add to the job summary."""
        path = self.tools.environ.get("GITHUB_STEP_SUMMARY")
        if path and len(markdown.encode()) <= MAX_SUMMARY_BYTES:
            _append(Path(path), f"{markdown}\n")


def _append(file: Path, text: str) -> None:
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}") from error
