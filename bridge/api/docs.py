"""/docs: the OpenAPI document as one HTML page without scripts and without anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from bridge.api.callers import Access
from bridge.api.problems import KINDS
from bridge.api.routes import ROUTES, Route

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
code, pre { font: 13px ui-monospace, monospace; background: #f3f5f8; border-radius: 4px; padding: .1em .3em; }
details { border: 1px solid #dde2ea; border-radius: 6px; margin: .5rem 0; padding: .5rem .8rem; }
summary { cursor: pointer; display: flow-root; } .wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; vertical-align: top; border-top: 1px solid #e6e9ef; padding: .25rem .5rem; }
.method { display: inline-block; min-width: 3.5rem; font-weight: 600; } .who { color: #667; float: right; }
@media (prefers-color-scheme: dark) { body { background: #14181f; color: #dde2ea; } code { background: #232a35; } }
"""


def docs_page(document: dict[str, Any]) -> bytes:
    """Render the page."""
    definitions = document["components"]["schemas"]
    routes = "".join(_route(route, document["paths"][route.path]) for route in ROUTES)
    problems = "".join(
        f'<tr id="{kind.slug}"><td><code>{escape(kind.type)}</code></td><td>{kind.status}</td>'
        f"<td>{escape(kind.title.rstrip('?'))}. {_text(kind.advice)}</td></tr>"
        for kind in KINDS.values()
    )
    models = "".join(_model(name, definitions[name]) for name in sorted(definitions))
    intro = _text(document["info"]["description"].split("Errors are RFC")[0])
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Pulse Bridge API</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Pulse Bridge API {escape(document['info']['version'])}</h1>"
        f'<p>{intro}</p><p>The same for machines: <a href="/openapi.json">/openapi.json</a>.</p>'
        f"<h2>Routes</h2>{routes}<h2>Problems</h2>"
        f'<div class="wide"><table><tr><th>type</th><th>status</th><th>what to do</th></tr>{problems}</table></div>'
        f"<h2>Schemas</h2>{models}</body></html>"
    ).encode()


def _route(route: Route, operations: dict[str, Any]) -> str:
    operation = operations[route.method.lower()]
    who = {Access.PUBLIC: "public", Access.APP: "app key"}.get(route.access, "ops key")
    parts = [f"<p>{escape(operation['description'])}</p>"]
    if route.aliases:
        parts.append(f"<p>Also at {', '.join(f'<code>{escape(path)}</code>' for path in route.aliases)}.</p>")
    if route.body is not None:
        parts.append(f"<p>Body: {_link(route.body.__name__)}</p>")
    if rows := "".join(_parameter(each) for each in operation.get("parameters", [])):
        parts.append(f"<table><tr><th>parameter</th><th>in</th><th>type</th><th></th></tr>{rows}</table>")
    answers = "".join(
        f"<tr><td>{status}</td><td>{_answer(answer)}</td><td>{_text(answer['description'])}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    parts.append(f"<table><tr><th>answer</th><th></th><th></th></tr>{answers}</table>")
    return (
        f'<details><summary><span class="method">{route.method}</span> <code>{escape(route.path)}</code> '
        f'{escape(route.summary)}<span class="who">{who}</span></summary>{"".join(parts)}</details>'
    )


def _parameter(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    text = parameter.get("description") or schema.get("description") or ""
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{_type(schema)}</td><td>{_text(text)}</td></tr>"
    )


def _answer(answer: dict[str, Any]) -> str:
    return ", ".join(_type(content["schema"]) for content in answer.get("content", {}).values())


def _model(name: str, schema: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{_type(shape)}</td>"
        f"<td>{_text(shape.get('description', ''))}</td></tr>"
        for field, shape in schema.get("properties", {}).items()
    )
    return (
        f'<details id="schema-{escape(name)}"><summary><code>{escape(name)}</code> '
        f"{_text(schema.get('description', ''))}</summary><table>{rows}</table></details>"
    )


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _link(schema["$ref"].rsplit("/", 1)[-1])
    if "anyOf" in schema:
        return " or ".join(_type(each) for each in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(each))}</code>" for each in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    return escape(str(schema.get("type", "any")))


def _link(name: str) -> str:
    return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'


def _text(text: str) -> str:
    """Prose with `code` in back quotes."""
    parts = text.split("`")
    return "".join(f"<code>{escape(part)}</code>" if index % 2 else escape(part) for index, part in enumerate(parts))
