"""Write the pages that follow from schemas and `--help`: `make docs`. A test fails when they are out of date.

docs/spec.md comes from schemas/experiment.v1.schema.json, docs/cli.md from the argument parsers, the policies in
action/aws/ from the list of what the backend asks AWS for.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gitops_ml import main, validation
from gitops_ml.backends.aws_ec2 import permissions

TOP = Path(__file__).parents[1]
WIDTH = 110
"""Columns of the help texts, whatever the terminal's width is."""
LONGEST_EXAMPLE = 60

SPEC_TOP = """\
# The spec, field by field

Made from [`schemas/experiment.v1.schema.json`](../schemas/experiment.v1.schema.json) by `make docs`; edit the schema,
not this page. `gitops-ml schema` prints it; a spec that begins with

```yaml
# yaml-language-server: $schema=experiment.v1.schema.json
```

(the file that `gitops-ml schema` printed) is completed and checked by editors with a YAML language server.
"""

CLI_TOP = """\
# The command line

Made from `--help` by `make docs`; edit the commands, not this page.

Exit codes, for all commands: 0 fine; 1 findings (an invalid spec, a failed gate); 2 usage or configuration; 3 a bug of
ours; 4 a trial failed, was lost, or spent its budget; 5 a service refused or could not be reached; 6 denied by policy,
or not approved; 130 interrupted.
"""


def pages() -> Mapping[str, str]:
    """Return the generated pages by their path from docs/."""
    return {
        "spec.md": spec_page(),
        "cli.md": cli_page(),
        "../action/aws/ci-policy.json": _json(permissions.policy(permissions.CI)),
        "../action/aws/worker-policy.json": _json(permissions.policy(permissions.WORKER)),
    }


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2) + "\n"


# The spec


def spec_page() -> str:
    """Return one table per mapping of the spec, top level first."""
    schema = json.loads((TOP / "schemas" / "experiment.v1.schema.json").read_text(encoding="utf-8"))
    later = ", ".join(f"`{'.'.join(map(str, path))}`" for _, path, _ in validation._NOT_SUPPORTED)  # noqa: SLF001
    lines = [SPEC_TOP.rstrip(), "", f"Accepted by the schema, and refused by `validate` until they are built: {later}."]
    for path, node in _mappings("", schema, schema["$defs"]):
        title = f"`{path}`" if path else "Top level"
        required = node.get("required", ())
        lines += ["", f"## {title}", "", _sentence(node.get("description", "")), ""]
        lines += ["| key | what it is | accepted | default |", "| --- | --- | --- | --- |"]
        for key, value in node["properties"].items():
            value = _resolved(value, schema["$defs"])
            default = "required" if key in required else _code(value["default"]) if "default" in value else ""
            row = [f"`{key}`", _sentence(value.get("description", "")), accepted(value, schema["$defs"]), default]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def _mappings(path: str, node: Mapping[str, Any], defs: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every mapping with named keys, outer before inner."""
    node = _resolved(node, defs)
    if "properties" in node:
        yield path, node
        for key, value in node["properties"].items():
            yield from _mappings(f"{path}.{key}".lstrip("."), value, defs)
    if isinstance(node.get("items"), dict):
        yield from _mappings(f"{path}[]", node["items"], defs)
    if isinstance(node.get("additionalProperties"), dict):
        yield from _mappings(f"{path}.*", node["additionalProperties"], defs)


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in node:
        return node
    # What stands beside the reference says more than what it refers to.
    target = _resolved(defs[node["$ref"].removeprefix("#/$defs/")], defs)
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def accepted(node: Mapping[str, Any], defs: Mapping[str, Any]) -> str:
    """Say in words what a value may be."""
    node = _resolved(node, defs)
    if "const" in node:
        return _code(node["const"])
    if "enum" in node:
        return ", ".join(_code(value) for value in node["enum"])
    text = node.get("title", "")
    if not text:
        types = node.get("type", "anything")
        types = [types] if isinstance(types, str) else types
        names = {"object": "mapping", "array": "list"}
        text = " or ".join(names.get(name, name) for name in types)
        if types == ["array"] and isinstance(node.get("items"), dict):
            inner = _resolved(node["items"], defs)
            of = inner.get("title") or accepted(inner, defs)
            text = "list of mappings" if of == "mapping" else f"list, each {of}"
    bounds = {"minimum": "at least", "exclusiveMinimum": "more than", "maximum": "at most"}
    limits = [f"{words} {node[key]}" for key, words in bounds.items() if key in node]
    shown = [_code(example) for example in node.get("examples", ())[:1] if len(_code(example)) <= LONGEST_EXAMPLE]
    return ", ".join([text, *limits]) + (f"; such as {shown[0]}" if shown else "")


def _code(value: object) -> str:
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return f"`{json.dumps(value)}`"


def _sentence(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")


# The command line


def cli_page() -> str:
    """Return every command's `--help`."""
    lines = [CLI_TOP.rstrip(), "", "```console", "$ gitops-ml --help", _help().rstrip(), "```"]
    for name in main.COMMANDS:
        lines += ["", f"## {name}", "", "```console", f"$ gitops-ml {name} --help", _help(name).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _help(command: str | None = None) -> str:
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(WIDTH)
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main.parser(command).parse_args([command, "--help"] if command else ["--help"])
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before
    return out.getvalue()


if __name__ == "__main__":
    for file_name, text in pages().items():
        (TOP / "docs" / file_name).write_text(text, encoding="utf-8")
        print(f"docs/{file_name}")
