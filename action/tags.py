#!/usr/bin/env python3
"""What workflows, includes and pages name this project by: before a release its tag, everywhere.

    python action/tags.py --write v0.2.0     # stamp it into every file of the repository but the tests
    python action/tags.py v0.2.0             # name each place that says something else; 1: there is one

Needs git and the standard library.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

TOP = Path(__file__).parents[1]
_REF = r"(?P<ref>main|v\d+\.\d+\.\d+)"
_PLACES = re.compile(
    "|".join(
        place.replace("REF", _REF.replace("ref", f"ref{number}"))
        for number, place in enumerate(
            (
                r"gitops-ml/gitops-ml/(?:action|\.github/workflows/[\w-]+\.yml)@(?:refs/tags/)?REF\b",
                r"raw\.githubusercontent\.com/gitops-ml/gitops-ml/REF/",
                r"github\.com/gitops-ml/gitops-ml/(?:blob|tree)/REF/",
                # The inputs of the include for GitLab, and their default.
                r"inputs:\s+\{?version: REF\b",
                r"description: Tag of gitops-ml; the same as in the include\s+default: REF\b",
            )
        )
    )
)


def places(text: str, tag: str) -> Iterator[tuple[int, int]]:
    """Yield where each name of a tag or of `main` begins and ends that the tag, or `main`, is to replace."""
    for found in _PLACES.finditer(text):
        if tag != "main" or "refs/tags/" not in found[0]:  # an example of a tag stays one between releases
            yield found.span(found.lastgroup or 0)


def stamped(text: str, tag: str) -> str:
    """Return the text with the tag in each of these places."""
    for start, end in reversed([*places(text, tag)]):
        text = text[:start] + tag + text[end:]
    return text


def files(top: Path) -> Iterator[Path]:
    """Yield the committed texts that users read or run; tests have tags of their own, the changelog has old ones."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=top, check=True, capture_output=True, text=True).stdout
    for name in listed.split("\0"):
        if Path(name).suffix in (".json", ".md", ".py", ".sh", ".toml", ".yaml", ".yml") and not name.startswith(
            ("tests/", "CHANGELOG")
        ):
            yield top / name


def main(words: Sequence[str], top: Path = TOP) -> int:
    """Stamp the tag, or name the places without it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tag", help="such as v0.2.0")
    parser.add_argument("--write", action="store_true", help="write it instead of looking for it")
    args = parser.parse_args(words)
    if not re.fullmatch(_REF, args.tag):
        parser.error(f"{args.tag!r} is no tag of a release; write it like v0.2.0")
    others = 0
    for file in files(top):
        text = file.read_text(encoding="utf-8")
        if args.write and (new := stamped(text, args.tag)) != text:
            file.write_text(new, encoding="utf-8", newline="\n")
            text = new
        for start, end in places(text, args.tag):
            if text[start:end] != args.tag:
                others += 1
                line = text.count("\n", 0, start) + 1
                print(f"{file.relative_to(top)}:{line}: names {text[start:end]}, not {args.tag}")
    if others:
        print(f"python action/tags.py --write {args.tag} stamps all {others}, to be committed before the tag")
    return 1 if others else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
