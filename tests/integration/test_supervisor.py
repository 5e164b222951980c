"""The supervisor and what `uplift up` and `uplift down` do with it, on a small stack of real processes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis
from typer.testing import CliRunner

from deploy.local import control
from deploy.local import state as states
from deploy.local.engines import free_port
from deploy.local.errors import AlreadyRunning, StackError
from deploy.local.layout import Layout
from deploy.local.state import StackState
from deploy.local.supervisor import lock
from services.cli.main import cli
from tests.fakes.processes import ROOT, wait_until

pytestmark = pytest.mark.stack
STEPS = ("start Postgres and Valkey", "take a moment", "wait for valkey")
SMALL_STACK = (sys.executable, "-m", "tests.fakes.small_stack")


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """A home whose stack is small; whatever a test leaves is stopped."""
    monkeypatch.setenv("UPLIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UPLIFT_PORT", str(free_port()))
    monkeypatch.setenv("DATABASE_URL", "postgresql+psycopg://elsewhere/uplift")
    monkeypatch.delenv("REDIS_URL", raising=False)
    made = Layout(tmp_path / "home")
    yield made
    control.down(made)
    assert not alive(made)


def start(layout: Layout) -> StackState:
    return control.up(layout, lambda _step: None, argv=SMALL_STACK)


def alive(layout: Layout) -> list[str]:
    """Every living process that was told of this home, the tests' own aside."""
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ().get("UPLIFT_HOME") == str(layout.home) and process.pid != os.getpid()
            # Valkey renames itself, but works in its folder
            named = any(str(layout.home) in word for word in [*process.cmdline(), process.cwd()])
            if (told or named) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def pid_of(layout: Layout, name: str) -> int:
    found = states.read(layout.state)
    assert found is not None
    return next(one.pid for one in found.processes if one.name == name)


def test_starts_in_order_and_stops_without_a_trace(layout: Layout) -> None:
    steps: list[str] = []
    ready = control.up(layout, steps.append, argv=SMALL_STACK)
    assert ready.phase == "ready"
    assert [one.name for one in ready.processes] == ["valkey", "first", "second"]
    assert steps.index("start Postgres and Valkey") < steps.index("take a moment")
    assert control.down(layout)
    assert not alive(layout)
    assert not control.down(layout)


def test_writes_an_environment_that_a_shell_can_source_and_only_its_owner_reads(layout: Layout) -> None:
    start(layout)
    assert layout.environment.stat().st_mode & 0o777 == 0o600
    sourced = subprocess.run(
        ["bash", "-c", 'set -a; . "$0"; printf %s "$REDIS_URL"', str(layout.environment)],
        capture_output=True,
        text=True,
        check=True,
    )
    with redis.Redis.from_url(sourced.stdout) as client:
        assert client.ping()


def test_starts_again_what_died(layout: Layout) -> None:
    start(layout)
    before = pid_of(layout, "first")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: pid_of(layout, "first") != before, seconds=15)
    found = control.running(layout)
    assert found is not None
    assert {one.name: one.restarts for one in found.processes} == {"valkey": 0, "first": 1, "second": 0}


def test_a_killed_supervisor_takes_everything_with_it(layout: Layout) -> None:
    supervisor = start(layout).pid
    assert len(alive(layout)) >= 4
    os.kill(supervisor, signal.SIGKILL)
    wait_until(lambda: not alive(layout), seconds=10)
    assert start(layout).pid != supervisor


def test_reaps_what_a_dead_supervisor_recorded(layout: Layout) -> None:
    layout.make()
    with subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as orphan:
        created = psutil.Process(orphan.pid).create_time()
        gone = StackState("ready", 2**22 + 1, 0.0, 8000)
        gone.processes = [states.ProcessState("worker", orphan.pid, created)]
        gone.write(layout.state)
        assert control.down(layout)
        assert orphan.wait(5) == -signal.SIGTERM


def test_spares_a_later_process_that_got_a_recorded_pid(layout: Layout) -> None:
    layout.make()
    with subprocess.Popen(["/bin/sleep", "600"], start_new_session=True) as innocent:
        gone = StackState("ready", 2**22 + 1, 0.0, 8000)
        gone.processes = [states.ProcessState("worker", innocent.pid, 1.0)]
        gone.write(layout.state)
        assert not control.down(layout)
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("step", STEPS)
def test_an_interrupted_start_leaves_nothing(layout: Layout, step: str, number: int) -> None:
    program = (
        "from pathlib import Path; import os, sys; from deploy.local import control; "
        "from deploy.local.layout import Layout\n"
        "control.up(Layout(Path(os.environ['UPLIFT_HOME'])), lambda step: print(step, flush=True), argv=sys.argv[1:])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, *SMALL_STACK],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as starting:
        assert starting.stdout is not None
        assert any(line.startswith(step) for line in starting.stdout)
        starting.send_signal(number)
        starting.communicate(timeout=30)
    assert starting.returncode != 0
    assert not alive(layout)


def test_waits_for_a_stack_that_somebody_else_is_starting(layout: Layout) -> None:
    argv = [*SMALL_STACK]
    layout.make()
    with subprocess.Popen(argv, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True) as other:
        wait_until(lambda: control.running(layout) is not None, seconds=20)
        assert start(layout).pid == other.pid
        control.down(layout)


def test_shows_the_log_of_a_supervisor_that_ends_at_once(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLIFT_PORT", "not a port")
    with pytest.raises(StackError, match="port"):
        start(layout)


def test_names_the_taken_port_and_starts_nothing(layout: Layout) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(os.environ["UPLIFT_PORT"])))
        taken.listen()
        with pytest.raises(StackError, match="is taken by another program"):
            start(layout)
    assert not alive(layout)


def test_one_supervisor_per_home_and_no_stale_lock(layout: Layout) -> None:
    layout.make()
    with lock(layout.lock):
        with pytest.raises(AlreadyRunning, match="uplift status"), lock(layout.lock):
            pass
    holder = "import sys, time; from deploy.local.supervisor import lock; from pathlib import Path\n"
    holder += "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", holder, str(layout.lock)], cwd=ROOT, stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == b"held\n"
        held.kill()
        held.wait()
        with lock(layout.lock):
            assert layout.lock.exists()


def test_status_shows_processes_and_queues(layout: Layout) -> None:
    start(layout)
    answered = CliRunner().invoke(cli, ["status", "--json"])
    assert answered.exit_code == 0, answered.output
    shown = json.loads(answered.output)
    assert [one["name"] for one in shown["processes"]] == ["valkey", "first", "second"]
    assert all(one["alive"] and one["memory_mb"] > 0 for one in shown["processes"])
    assert shown["queues"]["training"] == 0


def test_up_says_when_it_is_running_already(layout: Layout) -> None:
    ready = start(layout)
    began = time.monotonic()
    answered = CliRunner().invoke(cli, ["up"])
    assert answered.exit_code == 0
    assert f"Already running: http://127.0.0.1:{ready.port}" in answered.output
    assert time.monotonic() - began < 5
