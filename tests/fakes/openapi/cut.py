"""Cut GitHub's official API documents down to what we use, so that the fake can be held to them.

    npm install --prefix DIR @octokit/openapi@23.0.2 @octokit/graphql-schema@15.26.1
    python tests/fakes/openapi/cut.py DIR/node_modules

writes ``github.json`` and ``github.graphql`` beside this file; with ``--check`` it only says whether they are what it
would write, and ends with 1 if not. Both packages are MIT; their notice is in ``LICENSE``.
Needs ``graphql-core``.
"""

import dataclasses
import json
import sys
from pathlib import Path

import graphql

HERE = Path(__file__).parent

ROUTES = {
    "/repos/{owner}/{repo}": ["get"],
    "/repos/{owner}/{repo}/actions/permissions/fork-pr-contributor-approval": ["get"],
    "/repos/{owner}/{repo}/actions/runs/{run_id}": ["get"],
    "/repos/{owner}/{repo}/collaborators/{username}/permission": ["get"],
    "/repos/{owner}/{repo}/commits/{commit_sha}/pulls": ["get"],
    "/repos/{owner}/{repo}/commits/{ref}/statuses": ["get"],
    "/repos/{owner}/{repo}/environments": ["get"],
    "/repos/{owner}/{repo}/git/refs": ["post"],
    "/repos/{owner}/{repo}/issues/comments/{comment_id}": ["patch", "delete"],
    "/repos/{owner}/{repo}/issues/{issue_number}/comments": ["get", "post"],
    "/repos/{owner}/{repo}/pulls": ["get"],
    "/repos/{owner}/{repo}/pulls/{pull_number}": ["get"],
    "/repos/{owner}/{repo}/rules/branches/{branch}": ["get"],
    "/repos/{owner}/{repo}/statuses/{sha}": ["post"],
}

# Type and fields that the queries name; what these refer to is kept with no field more.
FIELDS = {
    "Query": ["repository", "viewer"],
    "User": ["login"],
    "Repository": ["pullRequest"],
    "PullRequest": ["comments", "headRefOid", "state", "url"],
    "IssueCommentConnection": ["nodes", "pageInfo", "totalCount"],
    "IssueComment": ["author", "body", "fullDatabaseId", "url"],
    "Actor": ["login"],
    "Bot": ["login"],
    "PageInfo": ["hasPreviousPage", "startCursor"],
}


def rest(document: dict) -> dict:
    """Return the document with our routes and the components that they reach."""
    paths = {}
    for route, methods in ROUTES.items():
        item = document["paths"][route]
        paths[route] = {key: value for key, value in item.items() if key in methods or key == "parameters"}
    components: dict[str, dict] = {}
    todo = list(_references(paths))
    while todo:
        kind, name = todo.pop().removeprefix("#/components/").split("/")
        if name not in components.setdefault(kind, {}):
            components[kind][name] = document["components"][kind][name]
            todo.extend(_references(components[kind][name]))
    return _without_prose(
        {
            "openapi": document["openapi"],
            "info": {**document["info"], "x-source": "npm @octokit/openapi 23.0.2, generated/api.github.com.json"},
            "paths": paths,
            "components": components,
        }
    )


def _references(node: object) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [found for value in node.values() for found in _references(value)]
    if isinstance(node, list):
        return [found for value in node for found in _references(value)]
    return []


def _without_prose(node: object) -> object:
    if isinstance(node, dict):
        # A property may itself be called `description`: then its value is a schema, not text.
        return {
            # An example's value is an answer as it is sent, with its own descriptions.
            key: value if key == "value" else _without_prose(value)
            for key, value in node.items()
            if not (key in ("description", "summary") and isinstance(value, str))
            and key not in ("x-github", "externalDocs", "x-octokit", "x-multi-segment")
        }
    if isinstance(node, list):
        return [_without_prose(value) for value in node]
    return node


def query_language(text: str) -> str:
    """Return the schema with our types and fields alone."""
    by_name = {one.name.value: one for one in graphql.parse(text, no_location=True).definitions if hasattr(one, "name")}
    kept = []
    for name, names in FIELDS.items():
        whole = by_name[name]
        fields = tuple(_plain_field(field) for field in whole.fields if field.name.value in names)
        assert len(fields) == len(names), f"{name} has lost a field"
        interfaces = tuple(one for one in whole.interfaces or () if one.name.value in FIELDS)
        kept.append(dataclasses.replace(whole, fields=fields, interfaces=interfaces, directives=(), description=None))
    named = {_name_of(part.type) for one in kept for field in one.fields for part in (field, *(field.arguments or ()))}
    for name in sorted(named - set(FIELDS) - {"Boolean", "Int", "String"}):
        plain = dataclasses.replace(by_name[name], description=None, directives=())
        if isinstance(plain, graphql.EnumTypeDefinitionNode):
            values = tuple(dataclasses.replace(value, description=None) for value in plain.values)
            plain = dataclasses.replace(plain, values=values)
        kept.append(plain)
    head = "# Cut from npm @octokit/graphql-schema 15.26.1 (schema.graphql), MIT; see LICENSE and cut.py.\n"
    return head + graphql.print_ast(graphql.DocumentNode(definitions=tuple(kept))) + "\n"


def _plain_field(field: graphql.FieldDefinitionNode) -> graphql.FieldDefinitionNode:
    arguments = tuple(
        dataclasses.replace(one, description=None, directives=())
        for one in field.arguments or ()
        if one.name.value != "orderBy"
    )
    return dataclasses.replace(field, description=None, directives=(), arguments=arguments)


def _name_of(node: graphql.TypeNode) -> str:
    while not isinstance(node, graphql.NamedTypeNode):
        node = node.type
    return node.name.value


def main(modules: Path, *, check: bool) -> int:
    """Write or compare both files, and return the exit code."""
    source = json.loads((modules / "openapi/generated/api.github.com.json").read_text())
    made = {
        "github.json": json.dumps(rest(source), indent=1, sort_keys=True) + "\n",
        "github.graphql": query_language((modules / "graphql-schema/schema.graphql").read_text()),
    }
    different = [name for name, text in made.items() if (HERE / name).read_text() != text]
    if not check:
        for name in different:
            (HERE / name).write_text(made[name])
    print(f"different: {', '.join(different)}" if different else "nothing differs")
    return 1 if check and different else 0


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--check"]
    sys.exit(main(Path(words[0]) / "@octokit", check="--check" in sys.argv))
