"""The compute share: alone all cores, together divided, and a killed holder's share is free at once."""

import subprocess
import sys
from pathlib import Path

from shared.compute import ComputeShare


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
