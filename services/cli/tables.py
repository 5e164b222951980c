"""A report as a terminal shows it: every variant, its difference to the baseline, the verdict in words."""

from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

_FILE_WIDTH = 130
COLOURS = {"better": "green", "worse": "red", "equivalent": "cyan", "inconclusive": "yellow"}


def report_table(report: dict[str, Any]) -> Group:
    """One row a variant, then what it means and where it came from."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in (
        ("variant", "left"),
        ("exact match", "right"),
        ("token F1", "right"),
        ("difference to baseline (95 %)", "left"),
        ("verdict", "left"),
        ("p50 ms", "right"),
        ("tokens/answer", "right"),
        ("train s", "right"),
    ):
        table.add_column(title, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    compared = {c["variant"]: c for c in _primary(report)}
    for variant in report["variants"]:
        table.add_row(*_row(variant, compared.get(variant["name"]), winner=report.get("winner")))
    return Group(table, Text(), Text(_footer(report), style="dim"))


def snippets(base_url: str, model: str, question: str) -> str:
    """One curl and one Python snippet that talk to the winner."""
    return f"""source credentials first:  set -a; . "$UPLIFT_HOME/credentials.env"; set +a

curl -s $OPENAI_BASE_URL/chat/completions \\
  -H "Authorization: Bearer $OPENAI_API_KEY" -H 'Content-Type: application/json' \\
  -d '{{"model": "{model}", "messages": [{{"role": "user", "content": "{question}"}}]}}'

from openai import OpenAI   # reads OPENAI_BASE_URL ({base_url}) and OPENAI_API_KEY
answer = OpenAI().chat.completions.create(
    model="{model}", messages=[{{"role": "user", "content": "{question}"}}])
print(answer.choices[0].message.content)"""


def wide_console(*, stderr: bool = False) -> Console:
    """A console that fits the report's table: into a file or a pipe there is no width to respect."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_FILE_WIDTH)


def show(console: Console, report: dict[str, Any]) -> None:
    console.print()
    console.print(report_table(report))
    console.print()


def _primary(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of the primary family: against the baseline, on the experiment's own metric."""
    metric = report.get("metric", "exact_match")
    return [c for c in report["comparisons"] if c["metric"] == metric and c.get("family", "primary") == "primary"]


def _row(variant: dict[str, Any], compared: dict[str, Any] | None, *, winner: str | None) -> list[str | Text]:
    name = Text(variant["name"] + (" ★" if variant["name"] == winner else ""), style="bold")
    metrics = variant["metrics"]
    tokens = variant["tokens"]
    cells: list[str | Text] = [name, _share(metrics["exact_match"]), _share(metrics["token_f1"])]
    if compared is None:
        cells += [Text("(baseline)", style="dim"), ""]
    else:
        cells.append(f"{compared['difference']:+.3f}  [{compared['low']:+.3f}, {compared['high']:+.3f}]")
        cells.append(Text(compared["verdict"], style=COLOURS.get(compared["verdict"], "")))
    cells.append(f"{variant['latency_ms']['p50']:.0f}")
    cells.append(f"{tokens['prompt']:.0f}+{tokens['completion']:.0f}")
    cells.append(f"{variant['train_seconds']:.0f}" if variant["train_seconds"] else "–")
    return cells


def _share(metric: dict[str, Any]) -> str:
    return f"{metric['mean']:.3f}"


def _footer(report: dict[str, Any]) -> str:
    sizes = report["dataset"]["sizes"]
    looks = report["looks_at_test"]
    notes = "".join(f"\n{note}" for note in report.get("notes", []))
    winner = report.get("winner") or "none"
    return (
        f"{sizes['test']} test questions (train {sizes['train']}, validation {sizes['validation']}); "
        f"looks at this test set so far: {looks}. ★ Winner, chosen on validation: {winner}.{notes}"
    )
