"""A state holds every generator that a run draws from. There is no GPU here: what it draws is not tested, nor shown."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from services.training.lora import generators, states
from services.training.lora.ranks import ALONE
from services.training.order import Stepped
from tests.factories.tiny_model import make_tiny_model
from tests.ml.test_training_resume import RECIPE, Killed, Runs

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> torch.Generator:
    """A generator beside the CPU's own, in the place of a GPU's."""
    generator, own = torch.Generator(), generators.drawn_from(CPU)
    both = own | {"cuda": generators.Generator(generator.get_state, generator.set_state)}
    monkeypatch.setattr(generators, "drawn_from", lambda _: both)
    return generator


def test_a_gpu_draws_from_a_generator_of_its_own_beside_the_cpus() -> None:
    assert list(generators.drawn_from(CPU)) == ["cpu"]
    assert list(generators.drawn_from(torch.device("cuda"))) == ["cpu", "cuda"]


def test_every_generator_draws_on_where_the_states_were_taken(second: torch.Generator) -> None:
    second.manual_seed(5)
    kept = generators.gathered(CPU, ALONE)
    drawn = torch.rand(3), torch.rand(3, generator=second)
    generators.restore(CPU, 0, kept)
    again = torch.rand(3), torch.rand(3, generator=second)
    assert all(torch.equal(now, then) for now, then in zip(again, drawn, strict=True))


def test_draws_as_at_its_start_where_the_states_know_nothing_of_it(second: torch.Generator) -> None:
    """States of before a device's generator was kept, those of a run on CPUs, and those of fewer processes."""
    of_a_cpu = {"cpu": torch.get_rng_state()}
    before = second.get_state()
    generators.restore(CPU, 0, of_a_cpu)
    assert torch.equal(second.get_state(), before)
    torch.manual_seed(8)
    before = torch.get_rng_state()
    generators.restore(CPU, 1, of_a_cpu)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_resumed_run_has_both_generators_as_they_were(folder: Path, tmp_path: Path, second: torch.Generator) -> None:
    first, then = dict[int, float](), dict[int, float]()

    def draw(event: object) -> None:
        if isinstance(event, Stepped):
            first[event.step] = torch.rand((), generator=second).item()
            if event.step == 5:
                raise Killed

    def draw_on(event: object) -> None:
        if isinstance(event, Stepped):
            then[event.step] = torch.rand((), generator=second).item()

    runs = Runs(folder, tmp_path)
    short = RECIPE.model_copy(update={"max_steps": 7})
    with pytest.raises(Killed):
        runs.start(short, on_event=draw).run()
    found = states.load_newest(runs.state_dir)
    assert found is not None
    assert found.tensors["random"].keys() == {"cpu", "cuda"}
    second.manual_seed(99)
    runs.start(short, on_event=draw_on).run()
    assert list(then) == [4, 5, 6, 7]
    assert [then[4], then[5]] == [first[4], first[5]]


def test_the_optimisers_step_count_lies_where_torch_itself_would_load_it(folder: Path, tmp_path: Path) -> None:
    """On a device that is not the CPU; `meta` is one that every build of torch has."""
    training = Runs(folder, tmp_path).start()
    parameter = nn.Parameter(torch.zeros(2, device="meta"))
    moments = {"exp_avg": torch.ones(2), "exp_avg_sq": torch.ones(2)}
    training.parameters = {"w": parameter}
    training._load_moments({f"w.{name}": value for name, value in moments.items()}, 3)
    theirs = torch.optim.AdamW([parameter], fused=True)
    state = {"state": {0: moments | {"step": torch.tensor(3.0)}}, "param_groups": theirs.state_dict()["param_groups"]}
    theirs.load_state_dict(state)
    loaded = training.optimizer.state[parameter]
    assert loaded["step"].device.type == "meta"
    for name, expected in theirs.state[parameter].items():
        assert (loaded[name].device, loaded[name].dtype) == (expected.device, expected.dtype)
