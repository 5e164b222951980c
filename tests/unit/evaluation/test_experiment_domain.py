"""The experiment's state machine, without a database: every path ends, nothing is ordered twice."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.evaluation.domain import (
    EVALUATIONS_AT_ONCE,
    Action,
    Ended,
    Experiment,
    Measured,
    Start,
    Step,
    Stop,
    advance,
    cancel,
    choose,
)
from services.evaluation.plan import CHOOSE, RELEASE, REPORT, command_for, evaluation_plan, plan, variant_of
from services.evaluation.plan import test_step as step_on_test
from services.evaluation.spec import TRAIN_RAFT, TRAIN_TUNED, VARIANTS, ExperimentSpec
from shared.messages import OrderRaftDataset, OrderRelease, OrderTraining, OrderVariants
from shared.prompt_format import Shot

SPEC = ExperimentSpec(
    name="trial",
    dataset_id="ds_1",
    vector_store_id="vs_1",
    base_model="small",
    shots=tuple(Shot(question=f"q{n}", answer=f"a{n}") for n in range(6)),
    max_tokens=16,
    release_as="trial",
)
OVER = {"succeeded", "failed", "cancelled"}


def planned(spec: ExperimentSpec = SPEC) -> Experiment:
    numbers = count(1)
    return Experiment(steps=plan(spec, lambda prefix: f"{prefix}{next(numbers)}"), metric=spec.metric)


def good_result(spec: ExperimentSpec, experiment: Experiment, step: Step, verdict: str | None) -> dict[str, Any]:
    """What the service that does the step would answer."""
    command = command_for(spec, "exp_1", experiment, step)
    if isinstance(command, OrderVariants):
        made = {one.key: {"variant_id": f"var_{one.key}", "model_id": f"model {one.key}"} for one in command.variants}
        return {"variants": made}
    if isinstance(command, OrderTraining):
        return {"adapter_id": f"ad_{command.suffix}", "model_id": "ft", "train_seconds": 1.0}
    if isinstance(command, OrderRaftDataset):
        return {"dataset_id": command.dataset_id, "sizes": {}}
    if isinstance(command, OrderRelease):
        return {"release_id": "rel_1", "model_id": command.model_id}
    if step.kind == "compare":
        return {"winner": experiment.result(CHOOSE)["winner"], "verdict": verdict}
    if step.kind == "evaluate":
        assert evaluation_plan(spec, experiment, step).model
        mean = 0.1 * sum(map(ord, step.name)) % 1
        return {"metrics": {spec.metric: mean}, "prompt_tokens": 20.0, "examples": 9}
    return {}


@dataclass
class Services:
    """Carries out what the experiment orders, in any order, telling some ends twice."""

    experiment: Experiment
    spec: ExperimentSpec = SPEC
    verdict: str | None = "better"
    fails: str | None = None
    dice: random.Random = field(default_factory=lambda: random.Random(0))
    ordered: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self.ordered.append(action.step.name)
                self.open.append(action.step.name)
            else:
                self.stopped.append(action.step.name)

    def step(self) -> None:
        name = self.open.pop(self.dice.randrange(len(self.open)))
        ended = self._end_of(self.experiment.steps[name])
        for _ in range(self.dice.choice([1, 1, 2])):
            self.experiment, actions = advance(self.experiment, ended)
            self.take(actions)

    def run(self) -> Experiment:
        self.experiment, actions = advance(self.experiment)
        self.take(actions)
        while self.open:
            self.step()
        return self.experiment

    def _end_of(self, step: Step) -> Ended:
        if step.name in self.stopped:
            return Ended(step.name, "cancelled")
        if step.name == self.fails:
            return Ended(step.name, "failed", error={"code": "broken", "message": "it broke"})
        return Ended(step.name, "succeeded", good_result(self.spec, self.experiment, step, self.verdict))


@given(seed=st.integers(0, 10_000))
def test_runs_every_step_once_in_whatever_order_ends_arrive(seed: int) -> None:
    services = Services(planned(), dice=random.Random(seed))
    experiment = services.run()
    assert experiment.status == "succeeded"
    assert sorted(services.ordered) == sorted(name for name in experiment.steps if name != CHOOSE)
    assert {step.status for step in experiment.steps.values()} == {"succeeded"}


@given(
    seed=st.integers(0, 10_000),
    fails=st.sampled_from([name for name in planned().steps if name != CHOOSE]),
)
def test_fails_naming_the_step_and_its_error_whichever_step_fails(seed: int, fails: str) -> None:
    services = Services(planned(), fails=fails, dice=random.Random(seed))
    experiment = services.run()
    assert experiment.status == "failed"
    assert experiment.error is not None
    assert experiment.error["step"] == fails
    assert experiment.error["code"] == "broken"
    assert fails in experiment.error["message"]
    assert "it broke" in experiment.error["message"]
    assert len(services.ordered) == len(set(services.ordered))
    assert not {step.status for step in experiment.steps.values()} & {"waiting", "running"}


@given(seed=st.integers(0, 10_000), after=st.integers(0, 25))
def test_cancel_stops_what_runs_and_starts_nothing_more(seed: int, after: int) -> None:
    services = Services(planned(), dice=random.Random(seed))
    services.experiment, actions = advance(services.experiment)
    services.take(actions)
    for _ in range(after):
        if services.open:
            services.step()
    was_over = services.experiment.status in OVER
    running, ordered = list(services.open), list(services.ordered)
    services.experiment, actions = cancel(services.experiment)
    services.take(actions)
    assert was_over or sorted(services.stopped) == sorted(running)
    while services.open:
        services.step()
    assert services.ordered == ordered
    assert services.experiment.status == ("succeeded" if was_over else "cancelled")
    assert not {step.status for step in services.experiment.steps.values()} & {"waiting", "running"}


def test_the_same_end_told_twice_changes_nothing() -> None:
    started, _ = advance(planned())
    ended = Ended(TRAIN_TUNED, "succeeded", {"adapter_id": "ad_1"})
    once, first = advance(started, ended)
    twice, second = advance(once, Ended(TRAIN_TUNED, "failed"))
    assert first
    assert second == ()
    assert twice == once


def test_an_end_of_work_that_was_never_ordered_is_ignored() -> None:
    started, _ = advance(planned())
    assert advance(started, Ended(REPORT, "succeeded", {})) == (started, ())
    assert advance(started, Ended("no such step", "succeeded", {})) == (started, ())


def test_a_result_that_lacks_what_later_steps_need_fails_the_step() -> None:
    started, _ = advance(planned())
    failed, actions = advance(started, Ended(TRAIN_TUNED, "succeeded", {"model_id": "ft"}))
    assert failed.status == "failed"
    assert "adapter_id" in str(failed.error)
    assert all(isinstance(action, Stop) for action in actions)


def test_training_and_the_evaluations_that_need_none_start_together() -> None:
    _, actions = advance(planned())
    assert [action.step.name for action in actions] == [TRAIN_TUNED, "build raft dataset", "create variants of base"]


@given(seed=st.integers(0, 10_000))
def test_evaluates_only_as_many_variants_at_once_as_fill_the_generation_worker(seed: int) -> None:
    services = Services(planned(), dice=random.Random(seed))
    services.experiment, actions = advance(services.experiment)
    services.take(actions)
    most = 0
    while services.open:
        services.step()
        most = max(most, sum(services.experiment.steps[name].kind == "evaluate" for name in services.open))
    assert most == EVALUATIONS_AT_ONCE


def test_opens_the_test_split_only_after_every_validation() -> None:
    services = Services(planned())
    services.run()
    first_test = min(place for place, name in enumerate(services.ordered) if name.startswith("test "))
    validations = [place for place, name in enumerate(services.ordered) if name.startswith("validate ")]
    assert max(validations) < first_test
    assert [name for name in services.ordered if name.startswith("test ")] == [step_on_test(name) for name in VARIANTS]


@pytest.mark.parametrize("verdict", ["worse", "equivalent", "inconclusive", None])
def test_releases_nothing_unless_test_says_better(verdict: str | None) -> None:
    services = Services(planned(), verdict=verdict)
    experiment = services.run()
    assert experiment.status == "succeeded"
    assert RELEASE not in services.ordered
    assert experiment.steps[RELEASE].status == "skipped"
    assert experiment.steps[REPORT].status == "succeeded"


def test_the_final_variants_are_the_chosen_candidates() -> None:
    experiment = Services(planned()).run()
    for name, key in experiment.result(CHOOSE)["candidates"].items():
        assert variant_of(SPEC, experiment, name)["variant_id"] == f"var_{key}"


def test_raft_continues_from_the_tuned_adapter_in_the_layout_it_is_served_in() -> None:
    orders: dict[str, OrderTraining] = {}
    served: dict[str, Any] = {}
    experiment = Services(planned()).run()
    for step in experiment.steps.values():
        if step.kind in {"train", "variants"}:
            command = command_for(SPEC, "exp_1", experiment, step)
            if isinstance(command, OrderTraining):
                orders[step.name] = command
            elif isinstance(command, OrderVariants):
                served |= {one.key: one for one in command.variants}
    raft, tuned = orders[TRAIN_RAFT], orders[TRAIN_TUNED]
    assert raft.init_adapter_id == "ad_tuned"
    assert tuned.init_adapter_id is None
    assert raft.dataset_id == experiment.result("build raft dataset")["dataset_id"]
    assert raft.prompt == served["raft+retrieval@3"].prompt
    assert raft.max_passage_tokens == served["raft+retrieval@3"].retrieval.max_passage_tokens
    assert tuned.prompt == served["tuned"].prompt == served["base"].prompt


def test_leaves_out_what_nobody_wants() -> None:
    spec = SPEC.model_copy(update={"variants": ("base", "base+prompt"), "vector_store_id": None})
    experiment = Services(planned(spec), spec=spec).run()
    assert experiment.status == "succeeded"
    assert not [step for step in experiment.steps.values() if step.kind in {"train", "raft_dataset"}]


def measured(key: str, mean: float, **traits: Any) -> Measured:
    cost = {"trained": False, "retrieves": False, "prompt_tokens": 10.0} | traits
    return Measured(key=key, variant=key.split("@")[0], mean=mean, **cost)


@pytest.mark.parametrize(
    ("cheap", "dear"),
    [
        (measured("b", 0.5), measured("a", 0.5, trained=True)),
        (measured("b", 0.5), measured("a", 0.5, retrieves=True)),
        (measured("b", 0.5), measured("a", 0.5, prompt_tokens=11.0)),
        (measured("b", 0.5, retrieves=True, prompt_tokens=300.0), measured("a", 0.5, trained=True)),
    ],
)
def test_ties_go_to_the_cheaper(cheap: Measured, dear: Measured) -> None:
    assert choose([dear, cheap]).winner == choose([cheap, dear]).winner == "b"


def test_a_better_mean_wins_whatever_it_costs() -> None:
    choice = choose([measured("a@1", 0.4), measured("a@2", 0.6, prompt_tokens=900.0), measured("c", 0.5)])
    assert choice.candidates == {"a": "a@2", "c": "c"}
    assert choice.winner == "a"
