"""Stands in for docker: checks what it is told, and runs the command with what a container would see."""

import json
import os
import sys
from pathlib import Path

KNOWN = {
    "--rm": 0, "--init": 0, "--pull": 1, "--name": 1, "--user": 1, "--workdir": 1, "--ipc": 1, "--gpus": 1,
    "--mount": 1, "--env": 1, "--entrypoint": 1,
}  # fmt: skip


def install(folder: Path) -> Path:
    """Make a folder with a ``docker`` in it; ``calls.jsonl`` beside it lists the arguments of each call."""
    folder.mkdir()
    tool = folder / "docker"
    tool.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).absolute()} {folder} "$@"\n')
    tool.chmod(0o755)
    return folder


def calls(folder: Path) -> list[list[str]]:
    """Return the arguments of each call so far."""
    return [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]


def main(folder: Path, arguments: list[str]) -> None:
    with (folder / "calls.jsonl").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    images = folder / "images"
    images.touch()
    if arguments[:2] == ["image", "inspect"]:
        sys.exit(arguments[-1] not in images.read_text().split())
    if arguments[0] == "pull":
        if "missing" in arguments[-1]:
            sys.exit("Error response from daemon: manifest unknown")
        images.write_text(arguments[-1])
    elif arguments[0] == "run":
        run(arguments[1:], images.read_text().split())
    elif arguments[0] != "rm":
        sys.exit(f"docker: '{arguments[0]}' is not a docker command")


def run(words: list[str], images: list[str]) -> None:
    options: dict[str, list[str]] = {}
    while words[0].startswith("--"):
        name = words.pop(0)
        count = KNOWN[name]
        options.setdefault(name, []).extend(words[:count])
        del words[:count]
    assert words.pop(0) in images, "--pull never"
    for mount in options["--mount"]:
        fields = dict(field.partition("=")[::2] for field in mount.split(","))
        assert fields["type"] == "bind"
        assert Path(fields["src"]).exists(), f"invalid mount config: {fields['src']} does not exist"
    os.chdir(options["--workdir"][0])
    inside = {"PATH": os.defpath, **{name: os.environ[name] for name in options["--env"]}}
    os.execvpe(options["--entrypoint"][0], [options["--entrypoint"][0], *words], inside)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
