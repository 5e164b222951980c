"""What a search says of its parameters, on losses whose truth is known."""

import math

import numpy as np

from services.training.search.analysis import explain, fewest_trials, too_few
from services.training.search.domain import Observation
from services.training.search.report.charts import path_chart, summary
from services.training.search.space import DEFAULT_SPACE, Dimension

SPACE = {
    "dropout": Dimension(low=0.0, high=0.4, step=0.05),
    "weight_decay": Dimension(low=0.001, high=1.0, log=True),
    "rank": Dimension(choices=(4, 16, 64)),
    "schedule": Dimension(choices=("cosine", "linear")),
}


def observed(count: int, *, noise: float) -> list[Observation]:
    """Dropout of 0.2 is right, weight decay does nothing, a rank of 64 overfits."""
    random, found = np.random.default_rng(0), []
    for _ in range(count):
        params = {
            "dropout": round(0.05 * int(random.integers(0, 9)), 2),
            "weight_decay": float(10 ** random.uniform(-3, 0)),
            "rank": int(random.choice([4, 16, 64])),
            "schedule": str(random.choice(["cosine", "linear"])),
        }
        loss = 2 + 8 * (params["dropout"] - 0.2) ** 2 + 0.15 * (params["rank"] == 64) + noise * random.normal()
        found.append(Observation(params, float(loss), float(1 + params["dropout"])))
    return found


def test_finds_where_a_parameter_is_too_weak_right_and_too_strong() -> None:
    found = explain(SPACE, observed(60, noise=0.01), {"dropout": 0.7, "rank": 0.3}, seed=0)
    path = found["paths"]["dropout"]
    verdicts = {point["value"]: point["verdict"] for point in path}
    assert (verdicts[0.0], verdicts[0.2], verdicts[0.4]) == ("too weak", "right", "too strong")
    assert {point["value"]: point["verdict"] for point in found["paths"]["rank"]}[64] == "too weak"
    assert {point["verdict"] for point in found["paths"]["weight_decay"]} == {"right"}
    assert path[-1]["train_loss"] > path[0]["train_loss"]
    assert "schedule" not in found["paths"], "it has no order"
    assert found["explained"] > 0.5
    assert [one["name"] for one in found["parameters"]] == ["dropout", "rank"]
    assert summary("dropout", path).startswith("dropout: too weak from 0 to ")
    assert summary("weight_decay", found["paths"]["weight_decay"]) == (
        "weight_decay: no difference can be told from 0.001 to 1"
    )


def test_says_when_the_parameters_explain_nothing() -> None:
    random = np.random.default_rng(1)
    noise = [Observation(one.params, float(random.normal()), 1.0) for one in observed(24, noise=0)]
    found = explain(SPACE, noise, {"dropout": 1.0}, seed=0)
    assert found["explained"] <= 0.1
    assert "beyond chance" in found["message"]


def test_says_when_there_are_too_few_trials() -> None:
    assert fewest_trials(DEFAULT_SPACE) == 8
    assert fewest_trials({"rank": SPACE["rank"]}) == 8
    said = too_few(DEFAULT_SPACE, 5)
    assert (said["parameters"], said["paths"]) == ([], {})
    assert "5 complete trials are too few" in said["message"]


def test_draws_every_path_within_its_picture() -> None:
    trials = observed(40, noise=0.01)
    found = explain(SPACE, trials, {}, seed=0)
    shown = [{"number": n, "value": one.valid_loss, "params": one.params} for n, one in enumerate(trials)]
    for name, path in found["paths"].items():
        dimension = SPACE[name]
        chart = path_chart(name, path, shown, log=dimension.log, even=dimension.choices is not None)
        assert len(chart.dots) == 40
        for dot in chart.dots:
            assert chart.left <= dot.x <= chart.right
            assert chart.top <= dot.y <= chart.bottom
        assert math.isclose(sum(zone.width for zone in chart.zones), chart.right - chart.left, abs_tol=0.1)
