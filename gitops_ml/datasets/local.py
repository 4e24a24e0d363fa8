"""What the user's own clone on this machine holds already, found without git."""

import shutil
from pathlib import Path


def git_folder(clone: Path) -> Path:
    """Return the folder that all work trees of a clone share: ``.git``, or where its file leads."""
    git = clone / ".git"
    try:
        named = git.read_text(encoding="utf-8").removeprefix("gitdir:").strip()
    except (OSError, UnicodeDecodeError):
        return git
    folder = clone / named
    try:
        return folder / (folder / "commondir").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return folder


def copied(source: Path, file: Path) -> bool:
    """Copy a file if it is there."""
    if not source.is_file():
        return False
    file.unlink(missing_ok=True)  # nothing to be continued
    shutil.copyfile(source, file)
    return True
