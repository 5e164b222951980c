"""Optuna behind a search: what to try next, and which trial falls behind. The only file that knows Optuna.

Optuna keeps its studies in its own schema of our Postgres and commits by itself, apart from our transactions. A worker
killed between the two leaves a trial that Optuna began and we do not know, or one that we know to have ended and Optuna
does not; so every look first adopts the one and tells of the other, and nothing is lost or tried twice.
"""

import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from services.training.search import analysis, domain
from services.training.search.domain import Observation, Point, StudyPlan
from services.training.search.space import Dimension, Value
from shared.database import Database

_SCHEMA = "optuna"
_TOLD = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "stopped": TrialState.FAIL,
    "failed": TrialState.FAIL,
}
"""What Optuna calls how a trial ended; one that runs is not told at all."""
_FEWEST_RANDOM, _MOST_RANDOM = 5, 10

optuna.logging.set_verbosity(optuna.logging.WARNING)
optuna.logging.disable_default_handler()  # what matters goes to our own log
optuna.logging.enable_propagation()


class OptunaStudies:
    """Studies in the schema `optuna`; the connection is made when the first search is steered."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._storage: optuna.storages.RDBStorage | None = None
        self._making = threading.Lock()

    def open(self, plan: StudyPlan) -> "OptunaStudy":
        """The search's study, made the first time. Open one only while its search's row is locked."""
        study = optuna.create_study(
            study_name=plan.search_id,
            storage=self.storage(),
            direction="minimize",
            pruner=optuna.pruners.SuccessiveHalvingPruner(
                min_resource=domain.RUNGS_FROM, reduction_factor=domain.HALVING
            ),
            load_if_exists=True,
        )
        return OptunaStudy(study, plan)

    def delete(self, search_id: str) -> None:
        """Forget the search's study, if it has one. Delete one only while its search's row is locked."""
        with suppress(KeyError):  # it was never opened, or a look that was done again deleted it before
            optuna.delete_study(study_name=search_id, storage=self.storage())

    def close(self) -> None:
        """Give the connections back."""
        if self._storage is not None:
            self._storage.remove_session()
            self._storage.engine.dispose()

    def storage(self) -> optuna.storages.RDBStorage:
        """Optuna's tables; they are made at the first call."""
        with self._making:
            if self._storage is None:
                database = Database(self._url, pool_size=1)
                # its tables are made at the first connection; two workers that start together must not both make them
                with database.system_transaction() as session:
                    session.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('uplift.optuna'))"))
                    self._storage = _storage(self._url)
                database.close()
            return self._storage


class OptunaStudy:
    """One search's study, for the length of one look at it."""

    def __init__(self, study: optuna.Study, plan: StudyPlan) -> None:
        self._study, self._plan = study, plan
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(plan.first), skip_if_exists=True)

    def tell(self, ended: Mapping[int, tuple[domain.TrialStatus, float | None]]) -> None:
        """Tell of every trial that ended; those that were told before are passed over."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.number not in ended:
                continue
            status, value = ended[trial.number]
            state = _TOLD[status]
            self._study.tell(trial.number, value if state == TrialState.COMPLETE else None, state)

    def falls_behind(self, number: int, curve: Sequence[Mapping[str, Any]]) -> bool:
        """Note a trial's validations; whether it was not among the better half where it was compared just now."""
        trial, noted = self._trial(number), self._frozen(number)
        if noted.state != TrialState.RUNNING:
            return False
        best, behind, at = float("inf"), False, 0
        for point in curve:
            best = min(best, point["valid_loss"])
            at = domain.percent(point["step"], point["total_steps"])
            if at <= (noted.last_step or 0):
                continue
            # one by one, so that each comparison sees what was known at its own point of the run
            trial.report(best, at)
            behind = trial.should_prune() or behind
            noted = self._frozen(number)
        return behind and at < 100  # a run that is done costs nothing more

    def ask(self, known: Collection[int]) -> Point:
        """The next point to try: one that was asked for and lost with its worker, or else a new one."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        lost = next((trial for trial in running if trial.number not in known), None)
        number = lost.number if lost is not None else len(self._study.get_trials(deepcopy=False))
        # a seed of the trial's own: the sampler is made anew in every look, and would else begin the same each time
        self._study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=max(_FEWEST_RANDOM, min(_MOST_RANDOM, self._plan.trials // 4)),
            seed=(self._plan.seed * 1_000_003 + number) % 2**32,
        )
        trial = self._trial(lost.number) if lost is not None else self._study.ask()
        return Point(trial.number, {name: _suggest(trial, name, one) for name, one in self._plan.space.items()})

    def explain(self, observed: Sequence[Observation]) -> dict[str, Any]:
        """What matters, by functional ANOVA (Hutter et al. 2014) over the complete trials; or that they are too few."""
        space, seed = self._plan.space, self._plan.seed
        if len(observed) < analysis.fewest_trials(space):
            return analysis.too_few(space, len(observed))
        if len({found.valid_loss for found in observed}) == 1:
            return analysis.all_equal(len(observed))
        try:
            shares = optuna.importance.get_param_importances(
                self._study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=seed)
            )
        except RuntimeError:  # no tree tells the trials apart: their losses differ in their last bits alone
            return analysis.all_equal(len(observed))
        return analysis.explain(space, observed, shares, seed=seed)

    def _trial(self, number: int) -> optuna.Trial:
        # Optuna's public objects do not tell the id
        return optuna.Trial(self._study, self._frozen(number)._trial_id)

    def _frozen(self, number: int) -> FrozenTrial:
        found = self._study.get_trials(deepcopy=False)[number]
        assert found.number == number, "Optuna counts a study's trials from 0"
        return found


def _storage(url: str) -> optuna.storages.RDBStorage:
    """As the role that all logins of the application share, so that each of them owns the tables."""
    options = f"-c role=uplift_app -c search_path={_SCHEMA}"
    return optuna.storages.RDBStorage(
        url,
        engine_kwargs={
            "pool_size": 2,
            "pool_pre_ping": True,
            "connect_args": {"prepare_threshold": None, "connect_timeout": 10, "options": options},
        },
    )


def _suggest(trial: optuna.Trial, name: str, one: Dimension) -> Value:
    if one.choices is not None:
        chosen = trial.suggest_categorical(name, one.choices)
        assert chosen is not None, "no choice of ours is None"
        return chosen
    low, high = one.bounds
    if one.whole:
        return trial.suggest_int(name, int(low), int(high), step=int(one.step or 1), log=one.log)
    return trial.suggest_float(name, low, high, step=one.step, log=one.log)
