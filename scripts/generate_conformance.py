"""Writes docs/openai-conformance.md: every method of OpenAI's client, whether we serve it, and the test that shows it.

The methods are read off the installed client, the routes off docs/openapi.json, the tests off their `covers` marks.
"""

import ast
import inspect
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import get_type_hints

import openai
from openai._resource import SyncAPIResource

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "openai-conformance.md"
SUITE = ROOT / "tests" / "contract" / "client"
PROMISED = (
    "models", "files", "uploads", "fine_tuning", "embeddings", "chat", "vector_stores", "evals", "batches",
)  # fmt: skip
"""The resources that Uplift takes the place of."""
_CALL = re.compile(r'self\._(get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?f?"([^"]+)"')


@dataclass(frozen=True)
class Method:
    """One method of the client; a helper (no `verb`) calls other methods.

    `source` is where its code stands: the client has some resources under two names.
    """

    name: str
    source: str
    verb: str = ""
    path: str = ""

    @property
    def resource(self) -> str:
        return self.name.split(".")[0]


def methods() -> list[Method]:
    """Every public method of every resource of the installed client, in the client's order."""
    return list(_walk(openai.OpenAI, ""))


def _walk(owner: type, prefix: str) -> Iterator[Method]:
    for name, member in vars(owner).items():
        if name.startswith(("_", "with_")):
            continue
        if isinstance(member, cached_property):
            kind = get_type_hints(member.func, vars(inspect.getmodule(owner)) | _late_names(member)).get("return")
            if inspect.isclass(kind) and issubclass(kind, SyncAPIResource):
                yield from _walk(kind, f"{prefix}{name}.")
        elif inspect.isfunction(member) and issubclass(owner, SyncAPIResource):
            yield _method(prefix + name, member)


def _late_names(member: "cached_property[object]") -> dict[str, object]:
    """The client imports its resources where they are first used; their names come from those import lines."""
    found: dict[str, object] = {}
    for module, names in re.findall(r"from (\.[\w.]*) import ([\w, ]+)", inspect.getsource(member.func)):
        package = member.func.__module__.rsplit(".", 1)[0]
        imported = __import__("importlib").import_module(module, package)
        found |= {name.strip(): getattr(imported, name.strip()) for name in names.split(",")}
    return found


def _method(name: str, function: FunctionType) -> Method:
    source, text = f"{function.__module__}.{function.__qualname__}", inspect.getsource(function)
    found = _CALL.search(text)
    if found is None:
        return Method(name, source)
    verb = "POST" if 'method="post"' in text else found[1].replace("get_api_list", "get").upper()
    return Method(name, source, verb, found[2])


def tests_by_method() -> dict[str, list[str]]:
    """The tests that say `@covers("…")`, by method."""
    found = defaultdict(list)
    for path in sorted(SUITE.glob("test_*.py")):
        for function in ast.parse(path.read_text()).body:
            for mark in getattr(function, "decorator_list", []):
                if isinstance(mark, ast.Call) and getattr(mark.func, "id", "") == "covers":
                    for name in mark.args:
                        assert isinstance(name, ast.Constant)
                        found[str(name.value)].append(f"{path.name}::{function.name}")  # type: ignore[attr-defined]
    return dict(found)


def routes() -> set[tuple[str, str]]:
    """Verb and path of what we serve, parameters without their names."""
    paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
    return {(verb.upper(), _shape(path)) for path, verbs in paths.items() for verb in verbs}


def is_served(method: Method, served: set[tuple[str, str]], covered: dict[str, list[str]]) -> bool:
    """An endpoint that we route, or a helper that a test shows to work."""
    return (method.verb, _shape("/v1" + method.path)) in served if method.verb else method.name in covered


def same_requests(
    found: list[Method], served: set[tuple[str, str]], covered: dict[str, list[str]]
) -> dict[str, Method]:
    """Methods outside the promised resources, by name, with the method whose request they send and that works."""
    works = [m for m in found if m.resource in PROMISED and is_served(m, served, covered)]
    by_source = {method.source: method for method in works}
    by_route = {(method.verb, _shape(method.path)): method for method in works if method.verb}
    others = [method for method in found if method.resource not in PROMISED]
    twins = {
        method.name: by_source.get(method.source, by_route.get((method.verb, _shape(method.path)))) for method in others
    }
    return {name: twin for name, twin in twins.items() if twin is not None}


def _shape(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)


def text() -> str:
    """The page as it should be."""
    served, covered, found = routes(), tests_by_method(), methods()
    promised = [method for resource in PROMISED for method in found if method.resource == resource]
    twins = same_requests(found, served, covered)
    others = [method for method in found if method.resource not in PROMISED and method.name not in twins]
    have = sum(is_served(method, served, covered) for method in promised)
    lines = [
        "# What of OpenAI's client works",
        "",
        "Generated by `make docs` from the client, `docs/openapi.json` and `tests/contract/client`; do not edit.",
        f"Every test named here runs with openai {openai.VERSION} and with openai 2.54.0, against a running platform.",
        "",
        f"Of the resources that Uplift takes the place of, {have} of {len(promised)} methods work.",
        "",
        "| method | request | works | shown by (tests/contract/client) |",
        "|---|---|---|---|",
    ]
    lines += [_row(method, is_served(method, served, covered), covered) for method in promised]
    lines += [
        "",
        "## Under another name",
        "",
        "They send the same requests as the methods beside them, so they work.",
        "",
    ]
    lines += [f"- `{name}`: same requests as `{twin.name}`" for name, twin in twins.items()]
    lines += ["", "## Not served", "", "The client's other resources; a call to one of them is answered with 404.", ""]
    grouped = defaultdict(list)
    for method in others:
        grouped[method.resource].append(method.name.removeprefix(f"{method.resource}."))
    lines += [f"- **{name}**: {', '.join(sorted(names))}" for name, names in sorted(grouped.items())]
    return "\n".join(lines) + "\n"


def _row(method: Method, works: bool, covered: dict[str, list[str]]) -> str:
    request = f"`{method.verb} {method.path}`" if method.verb else "helper"
    shown = ", ".join(covered.get(method.name, [])) if works else ""
    return f"| `{method.name}` | {request} | {'yes' if works else 'no'} | {shown} |"


if __name__ == "__main__":
    TARGET.write_text(text())
