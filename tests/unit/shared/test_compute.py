"""The compute share: alone all cores, together divided, and a killed holder's share is free at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from shared import compute
from shared.compute import ComputeShare, OtherLoad


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests run beside these, and would count."""
    monkeypatch.setattr(OtherLoad, "cores", lambda _self: 0.0)


def test_gives_a_lone_holder_every_core(tmp_path: Path) -> None:
    with ComputeShare(tmp_path, "training", cores=8) as share:
        assert share.threads() == 8


def test_divides_the_cores_between_holders_and_never_gives_none(tmp_path: Path) -> None:
    with ComputeShare(tmp_path, "a", cores=4), ComputeShare(tmp_path, "b", cores=4) as second:
        assert second.threads() == 2
        with ComputeShare(tmp_path, "c", cores=2) as third:
            assert third.threads() == 1


def test_forgets_a_holder_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from shared.compute import ComputeShare\n"
        "with ComputeShare(Path(sys.argv[1]), 'doomed'): print('held', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as doomed:
        assert doomed.stdout is not None
        assert doomed.stdout.readline().strip() == "held"
        with ComputeShare(tmp_path, "me", cores=4) as share:
            assert share.threads() == 2
        doomed.kill()
        doomed.wait()
        with ComputeShare(tmp_path, "me", cores=4) as share:
            assert share.threads() == 4


@pytest.mark.parametrize(("busy", "threads"), [(0.2, 8), (0.3, 7), (1.2, 7), (1.3, 6), (7.9, 1), (9.0, 1)])
def test_leaves_to_others_the_cores_that_they_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, busy: float, threads: int
) -> None:
    monkeypatch.setattr(OtherLoad, "cores", lambda _self: busy)
    with ComputeShare(tmp_path, "training", cores=8) as share:
        assert share.threads() == threads


def test_a_fixed_number_of_threads_is_that_whatever_runs_beside(tmp_path: Path) -> None:
    with ComputeShare(tmp_path, "a", cores=8, fixed=3) as share, ComputeShare(tmp_path, "b", cores=8):
        assert share.threads() == 3


def test_other_load_is_what_was_busy_less_what_we_used_ourselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    clocks = iter([(100.0, 50.0, 7.0), (100.4, 50.8, 7.4), (102.0, 53.0, 8.0), (104.0, 54.0, 10.0)])
    monkeypatch.setattr(compute._Clocks, "read", lambda: compute._Clocks(*next(clocks)))
    load = OtherLoad()
    assert load.cores() == 0  # less than a second tells nothing yet
    assert load.cores() == pytest.approx(1.0)  # 3 busy seconds, 1 of them our own, in 2
    assert load.cores() == 0  # clocks of different grain never make it negative


def test_reads_the_clocks_of_this_machine() -> None:
    first, second = compute._Clocks.read(), compute._Clocks.read()
    assert second.wall >= first.wall
    assert second.busy >= first.busy > 0
    assert second.own >= first.own > 0
