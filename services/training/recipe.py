"""The recipe: everything that decides a training run, typed, documented and closed to unknown fields."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from services.training.errors import InvalidRecipe, UnknownRecipe

_FOLDER = Path(__file__).parent / "recipes"
_AS_A_RULE = {"full": {"learning_rate": 5e-5}}
"""Defaults of a kind of tuning that are not the defaults of all."""
ONLY_ADAPTERS = ("rank", "alpha", "rslora", "dora", "lora_plus_ratio", "dropout", "targets")


class Recipe(BaseModel):
    """Settings of one LoRA run. Two runs with equal recipes, data and base model are the same run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    objective: Literal["supervised", "dpo", "continued_pretraining"] = "supervised"
    """What is learned: the answers of chat rows, to prefer one answer to another (DPO, arXiv:2305.18290), or every
    token of documents, as in pretraining (arXiv:2004.10964). supervised: what OpenAI's API means where no method is
    named."""

    tune: Literal["lora", "qlora", "full"] = "lora"
    """Which weights are trained. `lora`, the default: a small adapter beside the frozen base model, the fastest to
    train and to serve. `qlora`: the same, with the base's layers held in four bits (arXiv:2305.14314), for a base that
    does not fit into memory otherwise; slower, and it needs the extra `qlora`. `full`: every weight, for small models
    and a lot of data; it takes 16 bytes a weight in training, and makes a whole model. Of the fields below, rank,
    alpha, rslora, dora, lora_plus_ratio, dropout and targets then say nothing."""

    beta: Annotated[float, Field(gt=0, le=100)] = 0.1
    """DPO only: how strongly the policy is held to where it started. 0.1 is what the paper used for most tasks."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    """Peak step size of AdamW, per step. 1e-3: LoRA bears ten times what full fine-tuning does, and a small
    model with a few hundred examples has only some dozens of steps to learn in. 5e-5 where `tune` is `full` and
    nothing else is said."""

    epochs: Annotated[float, Field(gt=0, le=1000)] = 3.0
    """Passes over the training examples; a fraction stops within a pass. 3: enough for format and wording of a
    few hundred examples, while the best checkpoint guards against the passes that were too many."""

    max_steps: Annotated[int, Field(ge=1)] | None = None
    """Upper limit in optimiser steps, whatever `epochs` says. None: the passes alone say how much is learned."""

    batch_size: Annotated[int, Field(ge=1, le=4096)] = 16
    """Examples per optimiser step (the *effective* batch). 16: small data sets need many steps more than they
    need smooth gradients."""

    micro_batch_tokens: Annotated[int, Field(ge=16)] = 512
    """Tokens per forward pass, shared prefixes counted once. It changes speed and memory, never the result:
    the effective batch is cut into such pieces. 512: attention over a pack is dense, so larger packs get slower
    per token (640 tok/s at 512, 580 at 1,024 on 2 cores), and smaller ones starve the matrix units."""

    replay_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of every batch that is drawn from the job's `replay_file` instead: examples of what the model shall not
    forget (Rolnick et al. 2019, arXiv:1811.11682). At least one and never all, so that an epoch takes more steps. 0:
    without such a file there is nothing to draw from; 0.05 to 0.25 are usual."""

    gradient_checkpointing: bool = False
    """Keep only each layer's input for the backward pass and compute the rest again (arXiv:1604.06174): memory of a
    pack falls to one layer's, for one more forward pass a step. It never changes the result. Off: at 512 tokens a
    pack the base weights are most of the memory."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Inner dimension of the low-rank update. 16: room for some thousand examples, at 4 % of the base's parameters
    for a 135M model; what it computes is small beside the base model's own products."""

    alpha: Annotated[float, Field(gt=0)] = 32.0
    """Numerator of the update's scale, alpha / rank. 32: twice the default rank, the usual choice."""

    rslora: bool = False
    """Scale the update by alpha / √rank instead (rsLoRA, arXiv:2312.03732), so that a higher rank does not learn
    slower. Off: at rank 16 both are the same up to alpha. With it, alpha = 2 · √rank gives the usual scale of 2."""

    dora: bool = False
    """Train a length of every output beside the low-rank direction (DoRA, arXiv:2402.09353): closer to full
    fine-tuning at low ranks, for some more time a step. Off: at rank 16 the difference is small."""

    lora_plus_ratio: Annotated[float, Field(ge=1, le=1024)] = 1.0
    """Learning rate of B as a multiple of A's, which is `learning_rate` (LoRA+, arXiv:2402.12354). 1 is plain LoRA,
    which the default learning rate is meant for; the paper took about 16 with one several times smaller."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of dropping an input of the low-rank path. 0: short runs underfit before they overfit."""

    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Which linear layers get an adapter, by the last part of their name. all-linear: all of them but the output head;
    at equal parameters this learns more than attention alone (QLoRA, arXiv:2305.14314)."""

    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled decay per step, times the learning rate. 0.01 is AdamW's custom; it pulls towards the base."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each target's probability that is spread over the whole vocabulary (arXiv:1512.00567), in training only:
    the training loss then has a floor above zero, the validation loss stays plain. 0: both losses then
    mean the same; 0.1 keeps a model that is sure of few examples from growing surer still. Not for `dpo`, whose labels
    are pairs."""

    neftune_alpha: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Noise on the input embeddings, in training only: uniform in ± alpha / √(tokens · width) (NEFTune,
    arXiv:2310.05914). A prefix that examples of one pack share is computed once, so they share its noise; the length is
    that of the longest example through the token, and each example alone sees the paper's noise. 0 is none: what the
    paper gained, with 5 to 15, is how chats are judged, while its scores on knowledge stayed. Not for `dpo`, where
    noise on one side of the ratio would be taken for preference."""

    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of all steps in which the learning rate climbs from zero. 5 %: what Adam divides by is
    too uncertain in its first steps for whole ones (arXiv:1908.03265)."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """What the learning rate does after warm-up: falls to zero along a cosine or a line, or stays. cosine: the custom
    since SGDR (arXiv:1608.03983), whose restarts are left out; most of the run keeps large steps, and the last ones are
    so small that the final weights do not hang on the last batches."""

    max_length: Annotated[int, Field(ge=8)] = 1024
    """Longest example in tokens, question and answer together. Longer ones are left out and counted, never cut:
    a cut answer teaches the model to stop early. Documents of continued pretraining are cut into even windows. 1,024:
    room for an answer with some passages, while the memory of one example's attention grows with its length squared."""

    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Continued pretraining without a validation file only: about this share of the documents, by their characters, is
    not learned from but measured on. 0.1: enough to tell a fall in loss from chance on some dozens of documents. Whole
    documents, for the next window of one that was learned from is easier than a document that was not."""

    train_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training examples that is learned from; a smaller share's examples are among a larger one's of the
    same seed. 1: all of them. Less tells what more data would bring (a learning curve)."""

    leave_out_leaked: bool = False
    """Leave training examples out that repeat or nearly repeat a validation example, which would otherwise be praised
    for what was learned by heart. Off: the count is shown first, and whoever sees it decides."""

    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients of a larger global L2 norm are scaled down to it (arXiv:1211.5063), so that one odd batch cannot throw
    the weights far off. 1: the custom; GPT-3 was trained with it (arXiv:2005.14165)."""

    evals_per_epoch: Annotated[int, Field(ge=1, le=100)] = 1
    """Validation passes per epoch, evenly spaced; a run that ends within its first epoch has as many over its steps.
    There is always one at the end. 1: every pass over the data is judged, which costs `max_validation_examples`."""

    max_validation_examples: Annotated[int, Field(ge=1)] = 128
    """At most so many validation examples a pass, the same ones each time. 128: they tell two checkpoints
    apart and cost a few seconds."""

    patience: Annotated[int, Field(ge=1)] | None = 3
    """Stop after so many validation passes in a row without a better loss; null never stops early. 3: one or two may be
    worse by chance, for few examples are measured. Waiting costs time alone: the weights of the best pass are kept."""

    save_steps: Annotated[int, Field(ge=1)] = 50
    """Optimiser steps between saved states: what a crash loses at most. 50: a state holds all trained weights and
    Adam's two moments of each, more to write than a few steps are worth."""

    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides the adapter's first weights, the order of examples, and dropout. 0: any number would do, but it must be a
    fixed one, so that the same order is the same run."""

    @classmethod
    def named(cls, name: str) -> "Recipe":
        """The recipe of that name: the defaults with the differences in `recipes/<name>.json`."""
        return cls.from_differences(_differences(name))

    @classmethod
    def wanted(cls, recipe: str | dict[str, Any], objective: str | None = None) -> "Recipe":
        """What a client gives as a recipe: a name, or differences; `objective` is meant where they name none."""
        return cls.from_differences({"base": recipe} if isinstance(recipe, str) else recipe, objective)

    @classmethod
    def from_differences(cls, differences: dict[str, Any], objective: str | None = None) -> "Recipe":
        """The defaults with these fields changed; `base` may name a recipe to start from instead."""
        fields = dict(differences)
        start = _differences(str(fields.pop("base"))) if "base" in fields else {}
        try:
            rule = _AS_A_RULE.get(str((start | fields).get("tune")), {})
            meant = {} if objective is None else {"objective": objective}
            return cls.model_validate(rule | meant | start | fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["recipe", *(str(part) for part in first["loc"])])
            raise InvalidRecipe(f"{where}: {first['msg']}.", param=where) from error

    @property
    def disturbs(self) -> bool:
        """Whether the training draws noise into what the model reads or computes; targets are another matter."""
        return bool(self.dropout or self.neftune_alpha)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        """Refuse what would be ignored: fields that say nothing under this objective."""
        if self.objective == "dpo":
            for name in ("label_smoothing", "neftune_alpha", "replay_ratio"):
                if getattr(self, name):
                    raise InvalidRecipe(f"{name} is not for the objective dpo; leave it 0.", param=f"recipe.{name}")
        if self.replay_ratio and self.batch_size < 2:
            raise InvalidRecipe(
                "replay_ratio needs a batch_size of at least 2: one example of each kind.", param="recipe.batch_size"
            )
        if (
            self.objective != "continued_pretraining"
            and self.validation_share != type(self).model_fields["validation_share"].default
        ):
            raise InvalidRecipe(
                "validation_share is for the objective continued_pretraining; give a validation_file instead.",
                param="recipe.validation_share",
            )
        for name in ONLY_ADAPTERS if self.tune == "full" else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise InvalidRecipe(
                    f"{name} is for adapters and says nothing in full fine-tuning; leave it out.",
                    param=f"recipe.{name}",
                )
        return self


def recipe_names() -> list[str]:
    """The named recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.json"))


def recipe_file(name: str) -> tuple[str, dict[str, Any]]:
    """A named recipe's `description` (what it is for) and its differences to the default; UnknownRecipe."""
    if name not in recipe_names():
        raise UnknownRecipe(f"There is no recipe {name!r}; there are {', '.join(recipe_names())}.", param="recipe")
    differences: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text())
    return str(differences.pop("description")), differences


def _differences(name: str) -> dict[str, Any]:
    return recipe_file(name)[1]
