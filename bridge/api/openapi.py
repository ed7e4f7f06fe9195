"""/openapi.json, made from the route table and the models that validate; nothing in it is written by hand twice."""

from __future__ import annotations

from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from bridge.api import answers
from bridge.api.callers import Access
from bridge.api.problems import KINDS
from bridge.api.routes import HTML, JSON, PARAMETERS, ROUTES, Route

_REF = "#/components/schemas/{model}"
_WHO = {
    Access.PUBLIC: "Open to everyone.",
    Access.APP: "Needs an API key with scope app, or the token of the user whom it is about.",
    Access.OPS: "Needs an API key with scope ops.",
    Access.OPS_OR_USER: "Needs an API key with scope ops, or the token of the user whose key the path names.",
}
_SHOWN: dict[Access, list[dict[str, list[str]]]] = {
    Access.APP: [{"apiKey": []}, {"userToken": []}],
    Access.OPS: [{"apiKey": []}],
    Access.OPS_OR_USER: [{"apiKey": []}, {"userToken": []}],
}
_NO_CONTENT = 204
_ALWAYS = ("bad-request", "rate-limited", "overloaded", "internal")


def openapi_document(version: str, public_url: str | None) -> dict[str, Any]:
    """The OpenAPI 3.1 document."""
    models = _models()
    _, definitions = models_json_schema([(model, mode) for model, mode in models.items()], ref_template=_REF)  # type: ignore[misc]
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Pulse Bridge", "version": version, "description": _description()},
        "paths": {},
        "components": {
            "schemas": definitions.get("$defs", {}),
            "securitySchemes": {
                "apiKey": {"type": "http", "scheme": "bearer", "description": "`<id>.<secret>`, from a server only."},
                "userToken": {
                    "type": "http",
                    "scheme": "bearer",
                    "bearerFormat": "JWT",
                    "description": "The access token of a signed-in user.",
                },
            },
        },
    }
    if public_url:
        document["servers"] = [{"url": public_url}]
    for route in ROUTES:
        for path in route.paths:
            document["paths"].setdefault(path, {})[route.method.lower()] = _operation(route, path)
    return document


def openapi_json(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document)


def _models() -> dict[type[BaseModel], str]:
    """Every model of the table: requests as they validate, answers as they are sent."""
    models: dict[type[BaseModel], str] = {answers.ProblemAnswer: "serialization"}
    for route in ROUTES:
        if route.body is not None:
            models[route.body] = "validation"
        if route.answer is not None:
            models[route.answer] = "serialization"
    return models


def _operation(route: Route, path: str) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": _WHO[route.access],
        "operationId": _operation_id(route.method, path),
        "tags": [_tag(route, path)],
        "responses": _responses(route),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.access is not Access.PUBLIC:
        operation["security"] = _SHOWN[route.access]
    if route.body is not None:
        reference = {"$ref": _REF.format(model=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": reference}}}
    return operation


def _operation_id(method: str, path: str) -> str:
    """The path in words; where a path has a further method, with that."""
    words = path.strip("/").replace("/", "-").replace("{", "").replace("}", "").replace(".", "-")
    return words if method in ("GET", "POST") else f"{method.lower()}-{words}"


def _tag(route: Route, path: str) -> str:
    if path in route.aliases:
        return "lasting aliases"
    return "api" if path.startswith("/api/") else "service"


def _responses(route: Route) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": {"type": "string"}}
    if route.answer is not None:
        content = {"schema": {"$ref": _REF.format(model=route.answer.__name__)}}
    elif route.content_type == JSON:
        content = {"schema": {"type": "object"}}
    media_type = route.content_type.partition(";")[0]
    responses: dict[str, Any] = {str(route.status): {"description": "As asked.", "content": {media_type: content}}}
    if route.status == _NO_CONTENT:
        del responses["204"]["content"]
    if route.browser:
        address = {"schema": {"type": "string"}, "description": "Where the browser goes next."}
        responses[str(route.status)]["headers"] = {"Location": address}
    if any(name == "If-None-Match" for name, _ in route.headers):
        responses["304"] = {"description": "The record is still the one that If-None-Match names."}
    slugs = [*route.problems, *_ALWAYS]
    if route.access is not Access.PUBLIC:
        slugs += ["unauthorized", "forbidden", "key-in-browser"]
    for slug in slugs:
        kind = KINDS[slug]
        answers: dict[str, Any] = {"application/problem+json": {"schema": {"$ref": _REF.format(model="ProblemAnswer")}}}
        if route.browser:
            answers[HTML] = {"schema": {"type": "string"}}
        answer = responses.setdefault(str(kind.status), {"description": "", "content": answers})
        answer["description"] = f"{answer['description']} `{slug}`: {kind.title}.".strip()
    return responses


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = []
    for name, (pattern, text) in PARAMETERS.items():
        if f"{{{name}}}" in route.path:
            schema = {"type": "string", "pattern": f"^{pattern.pattern}$"}
            parameters.append({"name": name, "in": "path", "required": True, "schema": schema, "description": text})
    if route.query is not None:
        shape = route.query.model_json_schema(by_alias=True)
        for name, schema in shape.get("properties", {}).items():
            required = name in shape.get("required", ())
            parameters.append({"name": name, "in": "query", "required": required, "schema": schema})
    for name, text in route.headers:
        parameters.append({"name": name, "in": "header", "schema": {"type": "string"}, "description": text})
    return parameters


def _description() -> str:
    rows = "\n".join(f"- `{kind.type}` ({kind.status}): {kind.title}. {kind.advice}" for kind in KINDS.values())
    return (
        "Keeps users' broker sessions alive and a truthful copy of each account in a cache. Times are Unix ms; absent "
        "data is null. A record is fresh only while `status` is `live` and `staleAfter` has not come. "
        f"Errors are RFC 9457 problem documents with one of these types:\n\n{rows}"
    )
