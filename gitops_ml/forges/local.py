"""The forge for one machine: the comment is a file.

It writes ``.gitops-ml/comment.md`` and, beside it, ``comment.html``: the same Markdown as a page that stands alone, its
pictures inside. Commit statuses go to ``.gitops-ml/statuses.json``. Needs nothing; has one pseudo change, number 0, the
checked-out commit. It is what ``comment`` uses outside CI:

    gitops-ml comment --forge local
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml import html
from gitops_ml.diagnostics import Check
from gitops_ml.errors import UserError
from gitops_ml.forges.base import CannotPublishError, Change, CommentRef, Image, Permission, Standing, State, Told
from gitops_ml.git import Repository


class LocalForge:
    """Comments and statuses as files in the ``.gitops-ml`` folder."""

    max_comment_bytes = 1_000_000

    def __init__(self, repository: Repository, environ: Mapping[str, str]) -> None:
        self._repository = repository
        self._user = environ.get("USER", "you")
        self._folder = Path(repository.state)

    def check(self, *, ledger_branch: str = "gitops-ml/reports") -> Iterator[Check]:  # noqa: ARG002 of the contract
        """Look whether the folder can be written."""
        writable = os.access(self._folder if self._folder.exists() else self._folder.parent, os.W_OK)
        fix = "" if writable else f"make {self._folder} writable for you"
        yield Check(subject="local forge", ok=writable, found="writable" if writable else "cannot be written", fix=fix)

    def change(self, number: int) -> Change:
        """Return the checked-out commit as change 0."""
        if number != 0:
            raise UserError(f"the local forge has no change {number}; it has one, number 0: what is checked out")
        head = self._repository.head()
        return Change(
            number=0,
            head=head.commit or "0" * 40,
            head_ref=head.branch or "HEAD",
            base_ref="main",
            fork=False,
            open=True,
            draft=False,
            title="the checked-out commit",
            author=self._user,
        )

    def change_for(self, commit: str) -> Change | None:
        """Return change 0 if the commit is checked out."""
        change = self.change(0)
        return change if change.head == commit else None

    def open_changes(self) -> Iterator[Change]:
        """Yield change 0."""
        yield self.change(0)

    def permission(self, user: str) -> Permission:
        """Say that whoever sits at the machine may do everything, and nobody else anything."""
        return Permission.ADMIN if user == self._user else Permission.NONE

    def publish_image(self, image: Image, *, how: str = "auto") -> str | None:  # noqa: ARG002 there is one way
        """Put the picture beside the comment and return its relative address."""
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", image.name)[:80] or "plot"
        svg = image.svg()
        # Two experiments may have a plot of one name.
        name = f"{name}-{hashlib.sha256(svg).hexdigest()[:8]}.svg"
        self._write(self._folder / "comment" / name, svg)
        return f"comment/{name}"

    def page_url(self, commit: str, path: str) -> None:
        """Return None: a commit is read with git here."""

    def upsert_comment(self, number: int, *, marker: str, body: str, commit: str | None = None) -> CommentRef:  # noqa: ARG002
        """Write the comment and its preview; another marker's comment is a file of its own."""
        self.change(number)
        if not body.startswith(marker):
            raise ValueError("the body does not start with its marker")
        file = self._file(marker)
        before = file.read_text(encoding="utf-8") if file.exists() else None
        if before is not None and not before.startswith(f"{marker}\n") and before != marker:
            raise CannotPublishError(f"{file} is not a comment of gitops-ml; move it away")
        url = file.resolve().as_uri()
        if before == body:
            return CommentRef(url=url, action="unchanged")
        self._write(file, body.encode())
        self._write(file.with_suffix(".html"), self._preview(body).encode())
        return CommentRef(url=url, action="created" if before is None else "updated")

    def told(self, number: int, *, marker: str) -> Told | None:  # noqa: ARG002 of the contract
        """Return None: the file says nothing but the comment."""
        self.change(number)
        return None

    def set_status(self, commit: str, *, context: str, state: State, text: str, url: str | None) -> None:
        """Write the status into ``statuses.json``, by commit and context."""
        known = self._known()
        known.setdefault(commit, {})[context] = {"state": str(state), "text": text, "url": url}
        content = json.dumps(known, indent=1, sort_keys=True).encode() + b"\n"
        self._write(self._folder / "statuses.json", content)

    def statuses(self, commit: str) -> Mapping[str, Standing]:
        """Return what stands in ``statuses.json``."""
        return {
            context: Standing(state=State(one["state"]), text=one["text"], url=one["url"])
            for context, one in self._known().get(commit, {}).items()
        }

    def run_is_over(self, url: str) -> bool | None:  # noqa: ARG002 of the contract
        """Return None: there is no CI."""
        return None

    def _known(self) -> dict[str, Any]:
        file = self._folder / "statuses.json"
        # A file that somebody broke holds nothing that is missed: statuses are set anew by every run.
        with contextlib.suppress(ValueError, OSError):
            loaded = json.loads(file.read_text(encoding="utf-8"))
            return loaded if isinstance(loaded, dict) else {}
        return {}

    def _file(self, marker: str) -> Path:
        found = re.search(r"comment=([A-Za-z0-9._/-]+)", marker)
        identity = found[1] if found else hashlib.sha256(marker.encode()).hexdigest()[:12]
        name = "comment" if identity == "default" else f"comment-{identity.replace('/', '-')}"
        return self._folder / f"{name}.md"

    def _preview(self, body: str) -> str:
        from markdown_it import MarkdownIt

        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
        # A table wider than a phone scrolls in its own box.
        rendered = rendered.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
        embedded = re.sub(r'src="(comment/[A-Za-z0-9_.-]+\.svg)"', self._embedded, str(rendered))
        return html.document("Comment", embedded, images="data:")

    def _embedded(self, match: re.Match[str]) -> str:
        file = self._folder / match[1]
        if not file.exists():
            return match[0]
        return f'src="data:image/svg+xml;base64,{base64.b64encode(file.read_bytes()).decode()}"'

    def _write(self, file: Path, content: bytes) -> None:
        """Write whole or not at all."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
            with os.fdopen(handle, "wb") as out:
                out.write(content)
            Path(name).replace(file)
        except OSError as error:
            raise CannotPublishError(
                f"cannot write {file}: {error.strerror}; free space or permissions there"
            ) from error
