"""/docs: the reference as one page that a browser reads without scripts and without the internet."""

import json
from collections import defaultdict
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment

router = APIRouter(include_in_schema=False)
_POLICY = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ info.title }} {{ info.version }}: reference</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 62rem; padding: 1rem; color: #1b1f24;
         background: #fff }
  nav { columns: 3 14rem; margin: 1rem 0 }
  nav a { display: block }
  details { border: 1px solid #d0d7de; border-radius: 6px; margin: .5rem 0; padding: .4rem .8rem }
  summary { cursor: pointer }
  code, pre { font: 14px/1.45 ui-monospace, monospace; background: #f3f5f7; border-radius: 4px; padding: 0 .2rem }
  pre { overflow: auto; padding: .6rem; white-space: pre-wrap }
  table { border-collapse: collapse; width: 100%; margin: .4rem 0 }
  th, td { border-bottom: 1px solid #d0d7de; padding: .25rem .5rem; text-align: left; vertical-align: top }
  .verb { display: inline-block; font-weight: 600; min-width: 4.5rem }
  .quiet { color: #57606a }
  @media (prefers-color-scheme: dark) {
    body { background: #0d1117; color: #e6edf3 } code, pre { background: #1b222b } a { color: #6cb6ff }
    .quiet { color: #9aa4af } details, th, td { border-color: #30363d }
  }
</style>
<h1>{{ info.title }} <span class="quiet">{{ info.version }}</span></h1>
<pre>{{ info.description }}</pre>
<p>The same for programs: <a href="openapi.json">openapi.json</a>.</p>
<nav aria-label="Subjects">
  {% for subject in subjects %}<a href="#{{ subject.name }}">{{ subject.name }}</a>{% endfor %}
</nav>
{% for subject in subjects %}
<h2 id="{{ subject.name }}">{{ subject.name }}</h2>
<p>{{ subject.description }}</p>
{% for operation in subject.operations %}
<details id="{{ operation.operationId }}">
  <summary><span class="verb">{{ operation.verb }}</span> <code>{{ operation.path }}</code>
    <span class="quiet">{{ operation.summary }}</span></summary>
  <p>{{ operation.description }}</p>
  {% if operation.fields %}
  <table>
    <tr><th>field</th><th>in</th><th>type</th><th>what it says</th></tr>
    {% for field in operation.fields %}
    <tr><td><code>{{ field.name }}</code>{% if field.required %} *{% endif %}</td><td>{{ field.place }}</td>
      <td>{{ field.type }}</td><td>{{ field.description }}</td></tr>
    {% endfor %}
  </table>
  <p class="quiet">* must be sent</p>
  {% endif %}
  {% for example in operation.examples %}<pre>{{ example }}</pre>{% endfor %}
  {% if operation.answered %}
  <table>
    <tr><th>answered</th><th>type</th><th>what it says</th></tr>
    {% for field in operation.answered %}
    <tr><td><code>{{ field.name }}</code></td><td>{{ field.type }}</td><td>{{ field.description }}</td></tr>
    {% endfor %}
  </table>
  {% endif %}
  {% for example in operation.answers %}<pre>{{ example }}</pre>{% endfor %}
  <table>
    <tr><th>status</th><th>when</th></tr>
    {% for status, answer in operation.responses.items() %}
    <tr><td>{{ status }}</td><td>{{ answer.description }}</td></tr>
    {% endfor %}
  </table>
</details>
{% endfor %}
{% endfor %}
</html>
"""


@router.get("/docs", response_class=HTMLResponse)
def reference(request: Request) -> HTMLResponse:
    """The reference; it says what /openapi.json says, which needs no key either."""
    kept = request.app.state
    if not hasattr(kept, "reference"):
        kept.reference = page(request.app.openapi())
    return HTMLResponse(kept.reference, headers=_POLICY)


def page(schema: dict[str, Any]) -> str:
    """The page of a description, by subject in the description's order."""
    grouped = defaultdict(list)
    for path, operations in schema["paths"].items():
        for verb, operation in operations.items():
            answers = {status: _resolved(answer, schema) for status, answer in operation["responses"].items()}
            shown = operation | {"verb": verb.upper(), "path": path, "responses": answers}
            shown |= _told(operation, schema) | _answered(answers["200"], schema)
            grouped[operation["tags"][0]].append(shown)
    subjects = [tag | {"operations": grouped[tag["name"]]} for tag in schema["tags"]]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(info=schema["info"], subjects=subjects)


def _told(operation: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What the caller sends: parameters, and the body's fields with its examples."""
    fields = [
        _field(one["name"], one["in"], one["schema"], one.get("required", False), one.get("description"))
        for one in operation.get("parameters", [])
    ]
    examples: list[Any] = []
    for content in operation.get("requestBody", {}).get("content", {}).values():
        body = _resolved(content.get("schema", {}), schema)
        needed = body.get("required", [])
        fields += [
            _field(name, "body", part, name in needed, None) for name, part in body.get("properties", {}).items()
        ]
        examples += body.get("examples", [])
    return {"fields": fields, "examples": _written(examples)}


def _answered(answer: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """What comes back in JSON: the fields and examples of the object, or of those that a page lists."""
    found = _resolved(answer.get("content", {}).get("application/json", {}).get("schema", {}), schema)
    of = ""
    if "has_more" in found.get("properties", {}) and not found.get("examples"):
        found, of = _resolved(found["properties"]["data"]["items"], schema), "data[]."
    fields = [_field(of + name, "answer", part, False, None) for name, part in found.get("properties", {}).items()]
    return {"answered": fields, "answers": _written(found.get("examples", []))}


def _written(examples: list[Any]) -> list[str]:
    return [json.dumps(one, indent=2, ensure_ascii=False) for one in examples]


def _field(name: str, place: str, part: dict[str, Any], required: bool, said: str | None) -> dict[str, Any]:
    description = said or part.get("description", "")
    return {"name": name, "place": place, "type": _type(part), "required": required, "description": description}


def _type(part: dict[str, Any]) -> str:
    """A field's type in a few words."""
    if "$ref" in part:
        return str(part["$ref"].rsplit("/", 1)[-1])
    if "enum" in part or "const" in part:
        return " | ".join(json.dumps(value) for value in part.get("enum", [part.get("const")]))
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in part:
            return " | ".join(dict.fromkeys(_type(one) for one in part[choice] if one.get("type") != "null"))
    if part.get("type") == "array":
        return f"list of {_type(part.get('items', {}))}"
    return str(part.get("type", "any"))


def _resolved(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found = part
    while "$ref" in found:
        kind, name = found["$ref"].split("/")[-2:]
        found = schema["components"][kind][name]
    return found
