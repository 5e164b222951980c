"""`uplift train`: from a file of examples to a model that answers, one fine-tuning job, watched while it runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from services.cli.client import Client
from services.cli.corpus import import_dataset, index, upload_documents
from services.cli.improve import BASE_MODEL
from services.cli.progress import StepBoard
from services.cli.tables import wide_console
from services.cli.watching import TrainingBoard, raise_unless_succeeded, watch
from shared.settings import Settings

_IDS = ("ds_", "file-", "vs_")


def train(
    data: Annotated[
        str | None,
        typer.Option(
            help="What to learn: JSONL of chat messages or preferences (OpenAI's form; the first row tells which), "
            "JSONL or CSV of question and answer (cleaned and split first), or the id of a dataset (ds_…) or file "
            "(file-…; with preferences in it, add --set objective=dpo)."
        ),
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="Documents to go on pretraining on, in place of --data: a folder of text, Markdown or HTML, JSONL of "
            "`text` rows, or the id of a vector store (vs_…) or file (file-…)."
        ),
    ] = None,
    model: Annotated[str, typer.Option(help="A base model, or a fine-tuned model to go on from.")] = BASE_MODEL,
    recipe: Annotated[str, typer.Option(help="A named recipe: see GET /v1/recipes.")] = "default",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A difference to the recipe, field=value (JSON or a word); repeatable."),
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option(help="A file like --data or --corpus to measure on; a dataset has its own split."),
    ] = None,
    replay: Annotated[
        str | None,
        typer.Option(help="Chats or `text` rows that must not be forgotten; --set replay_ratio=0.1 says how much."),
    ] = None,
    suffix: Annotated[str | None, typer.Option(help="Part of the new model's id.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order and dropout; 0 if not given.")] = None,
    max_minutes: Annotated[
        float | None, typer.Option(help="Refuse the job before its first step if it would take longer.")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the job is queued.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the finished job as JSON.")] = False,
) -> None:
    """Fine-tune a model on examples (--data) or documents (--corpus) and show how it goes.

    Ctrl-C stops watching. On a terminal it asks whether to cancel the job too; anywhere else the job goes on.
    """
    console = wide_console(stderr=as_json)
    differences = parsed_settings(set_ or [])
    with Client(Settings()) as client:
        order = {
            "model": model,
            "recipe": {"base": recipe, **differences} if differences else recipe,
            "suffix": suffix,
            "seed": seed,
            "max_minutes": max_minutes,
            **_source(client, console, data, corpus, validation, differences.get("objective")),
        }
        if replay is not None:
            with StepBoard(console) as board:
                order["replay_file"] = _uploaded(client, board, replay, "--replay")
        job = client.post("fine_tuning/jobs", {name: value for name, value in order.items() if value is not None})
        console.print(f"Job {job['id']} is queued.", highlight=False, soft_wrap=True)
        if detach:
            console.print(f"Watch it: uplift jobs follow {job['id']}", highlight=False, soft_wrap=True)
        else:
            job = _watch(client, console, job["id"])
    if as_json:
        typer.echo(json.dumps(job, indent=2))
    elif not detach:
        _say_what_next(console, job)


def parsed_settings(given: list[str]) -> dict[str, Any]:
    """`field=value` as a recipe's differences; a value that is no JSON is a word."""
    found: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not of the form field=value", param_hint="--set")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value.strip()
    return found


def _source(
    client: Client,
    console: Console,
    data: str | None,
    corpus: str | None,
    validation: str | None,
    objective: Any = None,
) -> dict[str, Any]:
    """The job's data fields, and its method where the data decides it; `objective` is what --set says of it.

    Local files are uploaded, questions and answers imported as a dataset.
    """
    if (data is None) == (corpus is None):
        raise typer.BadParameter("give --data or --corpus, one of the two", param_hint="--data")
    if corpus is not None:
        with StepBoard(console) as board:
            found = {"training_file": _documents(client, board, corpus, "--corpus")}
            if validation is not None:
                found["validation_file"] = _documents(client, board, validation, "--validation")
        return {"method": {"type": "continued_pretraining"}, **found}
    return _method(str(data), objective) | example_source(client, console, str(data), validation)


def _method(data: str, objective: Any) -> dict[str, Any]:
    """`method` for a local file of preferences; nothing where the recipe's objective decides."""
    path = Path(data)
    if not path.is_file() or not _holds_preferences(_first_row(path)):
        return {}
    if objective not in (None, "dpo"):
        raise typer.BadParameter(
            f"{data} holds preferences, which only the objective dpo learns from; leave objective={objective} out",
            param_hint="--set",
        )
    return {"method": {"type": "dpo"}}


def _documents(client: Client, board: StepBoard, source: str, option: str) -> str:
    """The id of a vector store or a file of texts; a folder's documents become a store that can be searched too."""
    if source.startswith("vs_"):
        return source
    path = Path(source)
    if not path.is_dir():
        return _uploaded(client, board, source, option)
    with board.step("upload documents") as report:
        file_ids = upload_documents(client, path, report)
    with board.step("index documents") as report:
        return index(client, path.resolve().name, file_ids, report).id


def example_source(client: Client, console: Console, data: str, validation: str | None) -> dict[str, Any]:
    """The data fields of a job or a search that learns from examples; see `--data`."""
    if data.startswith("ds_"):
        if validation is not None:
            raise typer.BadParameter("a dataset has its own validation split", param_hint="--validation")
        return {"dataset": data}
    with StepBoard(console) as board:
        if not data.startswith("file-") and not _is_training_file(_local(data, "--data")):
            if validation is not None:
                raise typer.BadParameter("questions and answers are split by the platform", param_hint="--validation")
            path = Path(data)
            with board.step("import examples") as report:
                return {"dataset": import_dataset(client, path, name=path.stem, seed=0, report=report)["id"]}
        found = {"training_file": _uploaded(client, board, data, "--data")}
        if validation is not None:
            found["validation_file"] = _uploaded(client, board, validation, "--validation")
        return found


def _uploaded(client: Client, board: StepBoard, file: str, option: str) -> str:
    if file.startswith("file-"):
        return file
    path = _local(file, option)
    with board.step(f"upload {path.name}"):
        return client.upload(path, name=path.name, purpose="fine-tune")


def _local(name: str, option: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise typer.BadParameter(f"{name} is neither a file here nor an id ({', '.join(_IDS)})", param_hint=option)
    return path


def _is_training_file(path: Path) -> bool:
    """Whether the first row is a chat or a preference, and not a question with its answer."""
    row = _first_row(path)
    return "messages" in row or _holds_preferences(row)


def _holds_preferences(row: dict[str, Any]) -> bool:
    """`input` alone says nothing: files of questions and answers have such columns too."""
    return bool({"preferred_output", "non_preferred_output"} & row.keys())


def _first_row(path: Path) -> dict[str, Any]:
    """The first line that is not blank, as JSON; empty where it is no object."""
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    try:
        row = json.loads(first)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def _watch(client: Client, console: Console, job_id: str) -> dict[str, Any]:
    with TrainingBoard(console) as board:
        try:
            end = watch(client, f"fine_tuning/jobs/{job_id}", board)
        except KeyboardInterrupt:
            board.pause()
            _interrupted(client, console, job_id)
            raise typer.Exit(130) from None
    raise_unless_succeeded(job_id, end)
    job: dict[str, Any] = client.get(f"fine_tuning/jobs/{job_id}")
    return job


def _interrupted(client: Client, console: Console, job_id: str) -> None:
    if console.is_terminal and typer.confirm("\nCancel the job too?", default=False, err=True):
        client.post(f"fine_tuning/jobs/{job_id}/cancel")
        console.print(f"Job {job_id} is being cancelled; its checkpoints stay.", highlight=False, soft_wrap=True)
        return
    console.print(
        f"Job {job_id} goes on. Watch it: uplift jobs follow {job_id}\nCancel it: uplift jobs cancel {job_id}",
        highlight=False,
        soft_wrap=True,
    )


def _say_what_next(console: Console, job: dict[str, Any]) -> None:
    model = job["fine_tuned_model"]
    metrics = (job.get("result") or {}).get("metrics") or {}
    if metrics.get("valid_loss") is not None:
        console.print(
            f"Best at step {metrics['best_step']} of {metrics['steps']}: validation loss {metrics['valid_loss']:.3f}.",
            highlight=False,
        )
    console.print(f"Model: {model}", highlight=False, markup=False, soft_wrap=True)
    console.print(f'Ask it: uplift ask {model} "your question"', highlight=False, markup=False, soft_wrap=True)
