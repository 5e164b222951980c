"""`uplift export`: a fine-tuned model as a file on this machine, ordered, watched, downloaded."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.cli.client import Client
from services.cli.progress import StepBoard
from services.cli.tables import wide_console
from services.cli.watching import TrainingBoard, raise_unless_succeeded, watch
from shared.settings import Settings


class Format(StrEnum):
    """As the API has them."""

    adapter = "adapter"
    merged = "merged"
    gguf = "gguf"


class Dtype(StrEnum):
    """As the API has them."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"
    q8_0 = "q8_0"


def export(
    model: Annotated[str, typer.Argument(help="A fine-tuned model, a checkpoint, or a variant or release of one.")],
    form: Annotated[
        Format,
        typer.Option(
            "--format",
            help="adapter: for peft and vLLM beside the base model; merged: a whole model folder; gguf: one file for "
            "llama.cpp.",
        ),
    ] = Format.adapter,
    dtype: Annotated[
        Dtype, typer.Option(help="Type of a merged model's weights; auto is the base model's; q8_0 is for gguf.")
    ] = (Dtype.auto),
    output: Annotated[Path, typer.Option(help="The file to write, or a folder to put it in.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the finished job as JSON.")] = False,
) -> None:
    """Write MODEL as one file that other programs load. Ctrl-C stops watching; the job goes on."""
    console = wide_console(stderr=as_json)
    if not output.is_dir() and not output.parent.is_dir():
        raise typer.BadParameter(f"there is no folder {output.parent}", param_hint="--output")
    with Client(Settings()) as client:
        job = client.post(f"models/{quote(model, safe='')}/export", {"format": form.value, "dtype": dtype.value})
        console.print(f"Job {job['id']} is queued.", highlight=False, soft_wrap=True)
        with TrainingBoard(console) as board:
            end = watch(client, f"jobs/{job['id']}", board)
        raise_unless_succeeded(job["id"], end)
        job = client.get(f"jobs/{job['id']}")
        made = job["result"]
        target = output / made["filename"] if output.is_dir() else output
        with StepBoard(console) as steps, steps.step(f"download {target.name}") as report:
            client.download(f"files/{made['file_id']}/content", target, lambda came: report(came, made["bytes"], None))
    if as_json:
        typer.echo(json.dumps(job, indent=2))
        return
    console.print(f"{target} ({made['bytes'] / 1e6:.1f} MB)", highlight=False, markup=False, soft_wrap=True)
    console.print(_faithful(made), highlight=False, markup=False, soft_wrap=True)


def _faithful(made: dict[str, Any]) -> str:
    if "largest_logit_difference" not in made:
        return "The adapter is as it was trained; README.md says how to load it."
    return (
        f"Largest difference of any logit: {made['largest_logit_difference']:.3g}, where their standard deviation is "
        f"{made['logit_spread']:.3g}; the same next token at {made['same_next_tokens']} of {made['positions']} places."
    )
