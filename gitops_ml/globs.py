"""Which paths a glob selects: one meaning for specs, code, metrics and policy, whatever lists the paths.

Paths have forward slashes and are relative. ``*`` and ``?`` stay inside one path segment, ``**`` as a whole
segment is any number of segments, ``[ab]``, ``[a-z]`` and ``[!a]`` are one character, ``folder/`` is everything in
the folder. Hidden files are files; case counts. A backslash is an ordinary character.
"""

import functools
import posixpath
import re
import sys
from collections.abc import Callable, Iterable

# The agent may run on Python 3.10, which has no atomic groups; there a hostile glob costs time, nothing else.
_ATOMIC = "(?>" if sys.version_info >= (3, 11) else "(?:"


def matches(path: str, globs: Iterable[str]) -> bool:
    """Say whether one of the globs selects the path."""
    return compiled(tuple(globs))(path) is not None


@functools.lru_cache(maxsize=512)
def compiled(globs: tuple[str, ...]) -> Callable[[str], re.Match[str] | None]:
    """Return a fast matcher for many paths: it gives None for a path that no glob selects."""
    return re.compile("|".join(map(_regex, globs)) or r"(?!)", re.DOTALL).fullmatch


def selected(paths: Iterable[str], globs: Iterable[str]) -> list[str]:
    """Return the paths that one of the globs selects, in the order given."""
    matcher = compiled(tuple(globs))
    return [path for path in paths if matcher(path)]


def is_glob(text: str) -> bool:
    """Say whether the text may select several paths; otherwise it names exactly one."""
    return text.endswith("/") or any(character in text for character in "*?[")


def rooted(workdir: str, path: str) -> str | None:
    """Return a path or glob of the workdir as one of the repository's root; None: it leads outside.

    ``rooted("models/a", "../common/**")`` is ``models/common/**``.
    """
    if path.startswith("/") or workdir.startswith("/"):
        return None
    joined = posixpath.normpath(posixpath.join(workdir, path))
    if joined == ".." or joined.startswith("../"):
        return None
    return f"{joined}/" if path.endswith("/") and joined != "." else joined


def folder_of(glob: str) -> str:
    """Return the deepest folder that holds all that the glob can select: where a walk may start."""
    segments = glob.split("/")
    fixed = next((number for number, segment in enumerate(segments) if is_glob(segment)), len(segments) - 1)
    return "/".join(segments[:fixed]) or "."


def folders_above(path: str) -> list[str]:
    """Return the folders that hold the path, the nearest first, the root as an empty text."""
    parts = path.rstrip("/").split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _regex(glob: str) -> str:
    # A spec may come from a stranger: every star but the last takes the shortest match and never gives it back
    # (an atomic group), so no glob makes the match slower than path times glob.
    segments = glob.removeprefix("./").split("/")
    if segments[-1] == "":
        segments[-1] = "**"
    chunks: list[list[str]] = [[]]
    for segment in segments:
        if segment == "**":
            chunks.append([])
        else:
            chunks[-1].append(_segment(segment))
    first, *rest = chunks
    if not rest:
        return "/".join(first)
    *middle, last = rest
    parts = ["".join(f"{segment}/" for segment in first)]
    parts += [f"{_ATOMIC}(?:[^/]+/)*?{'/'.join(chunk)}/)" for chunk in middle if chunk]
    parts.append(f"(?:[^/]+/)*{'/'.join(last)}" if last else ".+")
    return "".join(parts)


def _segment(glob: str) -> str:
    parts = [""]
    position = 0
    while position < len(glob):
        character = glob[position]
        position += 1
        if character == "*":
            parts.append("")
        elif character == "?":
            parts[-1] += "[^/]"
        elif character == "[" and (end := glob.find("]", position + 1 + (glob[position : position + 1] == "!"))) > 0:
            parts[-1] += _class(glob[position:end])
            position = end + 1
        else:
            parts[-1] += re.escape(character)
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    return first + "".join(f"{_ATOMIC}[^/]*?{part})" for part in middle if part) + f"[^/]*{last}"


def _class(text: str) -> str:
    negated = text.startswith("!")
    text = text[negated:]
    allowed = ""
    position = 0
    while position < len(text):
        low = high = text[position]
        if position + 2 < len(text) and text[position + 1] == "-":
            high = text[position + 2]
            position += 2
        position += 1
        if low <= high:
            allowed += f"{re.escape(low)}-{re.escape(high)}"
    if negated:
        return f"[^/{allowed}]"
    return f"(?!/)[{allowed}]" if allowed else "(?!)"
