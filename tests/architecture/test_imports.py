"""The import rules of docs/architecture.md; every message says how to mend what it found."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PURE_FILES = ("domain.py", "recipe.py")
PURE_FOLDERS = (
    "services/evaluation/metrics",
    "services/evaluation/statistics",
    *(
        f"services/training/doctor/{name}.py"
        for name in ("facts", "findings", "measures", "rules", "curve_rules", "diagnosis")
    ),
)
HEAVY = {"torch", "transformers", "peft", "sentence_transformers", "accelerate"}
HEAVY_ROOMS = (
    "services/training/lora/",
    "services/generation/engine/",
    "services/retrieval/embedding/",
    "deploy/local/models/",
)
FRAMEWORKS = {"fastapi", "starlette", "sqlalchemy", "celery", "kombu", "redis", "psycopg", "httpx"}
MOST_LINES = 400


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name_of(path)}:{node.lineno}: import by the full name, not relatively."
            yield node.lineno, node.module


def broken(rule: list[str], mend: str) -> None:
    assert not rule, "\n".join([*rule, f"→ {mend}"])


def test_no_service_imports_another() -> None:
    found = []
    for path in sources("services"):
        own = path.relative_to(ROOT / "services").parts[0]
        for line, module in imports(path):
            parts = module.split(".")
            other = parts[0] == "services" and len(parts) > 1 and parts[1] != own
            if other and not (name_of(path) == "services/gateway/app.py" and parts[-1] == "routes"):
                found.append(f"{name_of(path)}:{line} imports {module}")
    broken(found, "Send a command (shared/messages.py) or read the other's rows (shared/read_models.py).")


def test_shared_imports_no_service() -> None:
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in sources("shared")
        for line, module in imports(path)
        if module.split(".")[0] in {"services", "deploy", "migrations"} | HEAVY
    ]
    broken(found, "shared/ is what services stand on: move the rule into the service that owns it.")


def test_only_the_command_line_and_tests_import_the_embedded_stack() -> None:
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in sources("services", "shared")
        for line, module in imports(path)
        if module.split(".")[0] == "deploy" and not name_of(path).startswith("services/cli/")
    ]
    broken(found, "Services learn of the engines by DATABASE_URL and REDIS_URL alone.")


def test_pure_rooms_import_no_framework() -> None:
    pure = [p for p in sources("services") if p.name in PURE_FILES or name_of(p).startswith(PURE_FOLDERS)]
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in pure
        for line, module in imports(path)
        if module.split(".")[0] in FRAMEWORKS | HEAVY
    ]
    assert pure
    broken(found, "Domain rules, metrics and statistics are pure Python: pass values in, return values.")


def test_tensor_libraries_stay_in_their_rooms() -> None:
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in sources("services", "shared", "deploy")
        for line, module in imports(path)
        if module.split(".")[0] in HEAVY and not name_of(path).startswith(HEAVY_ROOMS)
    ]
    broken(
        found, f"Only {', '.join(HEAVY_ROOMS)} may; handlers receive them as injected protocols, wired in worker.py."
    )


def test_layers_import_downwards_only() -> None:
    ranks = {"app.py": 5, "worker.py": 5, "routes.py": 4, "tasks.py": 4, "handlers.py": 3, "repository.py": 2}
    ranks |= {"tables.py": 1, "domain.py": 0}
    found = []
    for path in sources("services"):
        rank = ranks.get(path.name)
        for line, module in imports(path):
            if rank is None or not module.startswith(f"services.{path.relative_to(ROOT / 'services').parts[0]}."):
                continue
            other = ranks.get(module.rsplit(".", 1)[-1] + ".py")
            if other is not None and other > rank:
                found.append(f"{name_of(path)}:{line} imports {module}")
    broken(found, "app, worker → routes, tasks → handlers → repository → tables, domain. Never upward.")


def test_the_environment_is_read_in_settings_only() -> None:
    allowed = ("settings.py", "processes.py")
    found = [
        f"{name_of(path)}:{node.lineno} reads os.environ"
        for path in sources("services")
        if path.name not in allowed and not name_of(path).startswith("services/cli/")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    ]
    broken(found, "Add a field to the service's settings.py and hand it in.")


def test_handlers_and_repositories_never_commit() -> None:
    found = [
        f"{name_of(path)}:{node.lineno} calls commit()"
        for path in sources("services")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "commit"
    ]
    broken(found, "The edge commits: `with database.transaction(project_id)` or `with context.transaction()`.")


@pytest.mark.parametrize("name", ["utils.py", "helpers.py", "common.py", "misc.py"])
def test_no_room_without_a_purpose(name: str) -> None:
    found = [name_of(path) for path in sources("services", "shared", "deploy") if path.name == name]
    broken(found, "Name the file after what it does.")


def test_files_stay_readable() -> None:
    lengths = {
        name_of(p): len(p.read_text().splitlines()) for p in sources("services", "shared", "deploy", "migrations")
    }
    found = [f"{name} has {lines} lines" for name, lines in lengths.items() if lines > MOST_LINES]
    broken(found, f"Past {MOST_LINES} lines a file becomes a folder of the same name.")


def test_every_file_opens_by_saying_what_it_is() -> None:
    found = [
        name_of(path)
        for path in sources("services", "shared", "deploy")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    broken(found, "Begin the file with one sentence on what it is for.")


def test_gateway_and_light_workers_start_without_tensor_libraries() -> None:
    program = (
        "import sys\n"
        "import services.gateway.app, services.data.worker, services.evaluation.worker, services.training.worker\n"
        f"heavy = sorted({HEAVY!r} & set(sys.modules))\n"
        "print(','.join(heavy))\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "", f"these were imported: {ran.stdout}"
