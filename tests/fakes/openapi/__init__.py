"""GitHub's official OpenAPI and GraphQL documents, cut to what we use, as judges of requests and answers."""

import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import referencing
import referencing.jsonschema

HERE = Path(__file__).parent


class OpenAPI:
    """An OpenAPI 3.0 document."""

    def __init__(self, path: Path) -> None:
        self.document = _as_json_schema(json.loads(path.read_text()))
        resource = referencing.Resource(contents=self.document, specification=referencing.jsonschema.DRAFT202012)
        self._registry = referencing.Registry().with_resource("urn:api", resource)
        self._routes = [
            (re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(route)) + "$"), route)
            for route in self.document["paths"]
        ]

    def find(self, method: str, path: str) -> tuple[str, Mapping[str, str]] | None:
        """Return the route and the parameters in its path; None: the document has no such operation."""
        for pattern, route in self._routes:
            found = pattern.match(path)
            if found and method.lower() in self.document["paths"][route]:
                return route, found.groupdict()
        return None

    def request_problems(self, method: str, route: str, query: Mapping[str, str], body: Any) -> list[str]:
        """Return what is wrong with a request."""
        operation = self.document["paths"][route][method.lower()]
        shared = self.document["paths"][route].get("parameters", [])
        known = {one["name"]: one for one in map(self._resolved, [*shared, *operation.get("parameters", [])])}
        problems = []
        for name, text in query.items():
            schema = known.get(name, {}).get("schema") if known.get(name, {}).get("in") == "query" else None
            if schema is None:
                problems.append(f"unknown query parameter {name}")
                continue
            value = int(text) if schema.get("type") == "integer" and text.isdigit() else text
            problems += self._problems(schema, value)
        wanted = operation.get("requestBody")
        if wanted is None:
            return [*problems, *(["a body that is not asked for"] if body is not None else [])]
        if body is None:
            return [*problems, *(["no body"] if wanted.get("required") else [])]
        return problems + self._problems(wanted["content"]["application/json"]["schema"], body)

    def answer_problems(self, method: str, route: str, status: int, body: Any) -> list[str]:
        """Return what is wrong with an answer."""
        responses = self.document["paths"][route][method.lower()]["responses"]
        if str(status) not in responses:
            # The document lists few failures; those that are everywhere have one shape.
            basic = self.document["components"]["schemas"]["basic-error"]
            return self._problems(basic, body) if status >= 400 else [f"status {status} is not documented"]
        response = self._resolved(responses[str(status)])
        content = response.get("content", {}).get("application/json")
        if content is None:
            return [] if body is None else ["a body that is not documented"]
        return self._problems(content["schema"], body)

    def example(self, method: str, route: str, status: int) -> Any:
        """Return the document's own example of an answer."""
        response = self._resolved(self.document["paths"][route][method.lower()]["responses"][str(status)])
        first = next(iter(response["content"]["application/json"]["examples"].values()))
        return json.loads(json.dumps(self._resolved(first)["value"]))

    def _resolved(self, node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            _, _, kind, name = node["$ref"].split("/")
            node = self.document["components"][kind][name]
        return node

    def _problems(self, schema: Any, value: Any) -> list[str]:
        return [
            f"{error.json_path}: {error.message[-300:]}"
            for error in self._validator(json.dumps(schema)).iter_errors(value)
        ]

    @functools.cache  # noqa: B019 one document lives as long as the tests
    def _validator(self, schema: str) -> jsonschema.Draft202012Validator:
        text = schema.replace('"#/components/', '"urn:api#/components/')
        return jsonschema.Draft202012Validator(json.loads(text), registry=self._registry)


@functools.cache
def github() -> OpenAPI:
    """Return GitHub's document."""
    return OpenAPI(HERE / "github.json")


def _as_json_schema(node: Any) -> Any:
    """Turn OpenAPI 3.0's ``nullable`` into JSON Schema."""
    if isinstance(node, list):
        return [_as_json_schema(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {key: _as_json_schema(value) for key, value in node.items()}
    if plain.pop("nullable", False) is True:
        return {"anyOf": [plain, {"type": "null"}]}
    return plain
