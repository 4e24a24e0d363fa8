#!/usr/bin/env python3
"""Write the tables of inputs and outputs in README.md anew, from action.yml. Needs PyYAML."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent


def readme(text: str, action: Mapping[str, Any]) -> str:
    """Return the text with both tables as the action has them."""
    inputs = [
        f"| `{name}` | {described['description']} | {_default(described['default'])} |"
        for name, described in action["inputs"].items()
    ]
    outputs = [f"| `{name}` | {described['description']} |" for name, described in action["outputs"].items()]
    text = _between(text, "inputs", ["| input | what it is | default |", "| --- | --- | --- |", *inputs])
    return _between(text, "outputs", ["| output | what it is |", "| --- | --- |", *outputs])


def _default(value: str) -> str:
    return f"`{value}`" if value else "none"


def _between(text: str, name: str, lines: list[str]) -> str:
    table = "\n".join(lines)
    new, found = re.subn(
        rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)",
        lambda it: f"{it[1]}\n{table}\n\n{it[2]}",
        text,
        flags=re.DOTALL,
    )
    if found != 1:
        raise ValueError(f"README.md has no place for {name}")
    return new


if __name__ == "__main__":
    page = HERE / "README.md"
    action = yaml.safe_load((HERE / "action.yml").read_text(encoding="utf-8"))
    page.write_text(readme(page.read_text(encoding="utf-8"), action), encoding="utf-8")
