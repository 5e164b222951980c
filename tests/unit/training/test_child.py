"""The supervisor knows how a child ended and leaves no process behind; the children here only pretend to train."""

import errno
import os
import time
from functools import partial
from pathlib import Path

import pytest

from services.training import child
from services.training.child import supervise
from services.training.errors import DiskFull, OutOfMemory, TrainingChildDied, TrainingChildStopped
from services.training.exhaustion import EXPORT, name_exhaustion
from services.training.order import ChildEvent, Finished, parse_event

DONE = Finished(
    steps=1,
    best_step=1,
    valid_loss=None,
    valid_mean_token_accuracy=None,
    train_loss=1.0,
    trained_tokens=1,
    train_seconds=0.1,
    stopped_early=False,
)


class Pretender:
    """Writes a module that stands in for the training child, and runs it under the supervisor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events: list[ChildEvent] = []
        self.wish_error: type[Exception] | None = None

    def run(self, body: str, *, wish: str | None = None, grace: float = 10.0, processes: int = 1) -> Finished:
        prelude = (
            "import os, signal, sys, time\nrank = int(os.environ.get('RANK', 0))\n"
            "if rank == 0: open(sys.argv[1] + '.pid', 'w').write(str(os.getpid()))\n"
        )
        (self.folder / "pretender.py").write_text(prelude + body)
        environment = {"PYTHONPATH": str(self.folder), "PATH": os.environ["PATH"]}
        return child.run_child(
            order_file=self.folder / "order.json",
            environment=environment,
            on_event=self.events.append,
            wish=lambda: self._wish(wish),
            grace_seconds=grace,
            module="pretender",
            processes=processes,
        )

    def _wish(self, wanted: str | None) -> str | None:
        if "ready" not in self.said():
            return None
        if self.wish_error is not None:
            raise self.wish_error
        return wanted

    @property
    def pid_file(self) -> Path:
        return self.folder / "order.json.pid"

    def said(self) -> str:
        return (self.folder / "child.log").read_text()

    def alive(self) -> bool:
        try:
            os.kill(int(self.pid_file.read_text()), 0)
        except ProcessLookupError:
            return False
        return True


@pytest.fixture
def pretender(tmp_path: Path) -> Pretender:
    return Pretender(tmp_path)


READY = "print('ready', file=sys.stderr, flush=True)\n"


def test_hands_on_events_and_the_last_word(pretender: Pretender) -> None:
    assert pretender.run(f"print({DONE.model_dump_json()!r})") == DONE
    assert pretender.events == [DONE]


def test_tells_a_death_without_a_word_from_a_failure(pretender: Pretender) -> None:
    with pytest.raises(TrainingChildDied, match="the cause"):
        pretender.run("print('the cause', file=sys.stderr, flush=True); os.kill(os.getpid(), signal.SIGKILL)")


def test_tells_a_kill_for_memory_from_another(pretender: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count of such kills rises while the child runs; here a stand-in for it does."""
    counts = iter([3, 4])
    monkeypatch.setattr(child, "memory_kills", lambda: next(counts))
    with pytest.raises(OutOfMemory, match="kernel killed training"):
        pretender.run("os.kill(os.getpid(), signal.SIGKILL)")


def test_an_export_is_advised_as_one_when_it_runs_out(pretender: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "run_child", partial(supervise, parse=parse_event, last=Finished, work=EXPORT))
    counts = iter([3, 4])
    monkeypatch.setattr(child, "memory_kills", lambda: next(counts))
    with pytest.raises(OutOfMemory, match="kernel killed the export") as killed:
        pretender.run("os.kill(os.getpid(), signal.SIGKILL)")
    assert "recipe" not in killed.value.message
    full = name_exhaustion(OSError(errno.ENOSPC, "No space left on device"), EXPORT)
    assert isinstance(full, DiskFull)
    assert "checkpoint" not in full.message


def test_names_the_lack_of_memory_that_a_library_aborts_with(pretender: Pretender) -> None:
    with pytest.raises(OutOfMemory):
        pretender.run("print('terminate called: std::bad_alloc', file=sys.stderr, flush=True); os.abort()")
    with pytest.raises(TrainingChildDied):
        pretender.run("print('terminate called: a defect', file=sys.stderr, flush=True); os.abort()")


def test_raises_the_error_that_the_child_named(pretender: Pretender) -> None:
    with pytest.raises(DiskFull, match="no room"):
        pretender.run("""print('{"event":"error","code":"disk_full","message":"no room"}'); sys.exit(1)""")


def test_cancel_kills_a_child_that_ignores_signals(pretender: Pretender) -> None:
    began = time.monotonic()
    with pytest.raises(TrainingChildStopped):
        pretender.run(f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{READY}time.sleep(60)", wish="cancel")
    assert time.monotonic() - began < 10
    assert not pretender.alive()


def test_handover_lets_the_child_save_first(pretender: Pretender) -> None:
    save = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    with pytest.raises(TrainingChildStopped) as stopped:
        pretender.run(f"{save}{READY}time.sleep(60)", wish="handover")
    assert stopped.value.saved
    assert not pretender.alive()


def test_handover_does_not_wait_for_ever(pretender: Pretender) -> None:
    with pytest.raises(TrainingChildStopped) as stopped:
        pretender.run(f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{READY}time.sleep(60)", wish="pause", grace=0.5)
    assert not stopped.value.saved
    assert not pretender.alive()


def test_a_lost_lease_leaves_no_child(pretender: Pretender) -> None:
    pretender.wish_error = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        pretender.run(f"{READY}time.sleep(60)")
    assert not pretender.alive()


def test_does_not_wait_for_ranks_whose_other_was_killed(pretender: Pretender) -> None:
    with pytest.raises(TrainingChildDied, match="ended with status -9"):
        pretender.run("if rank: os.kill(os.getpid(), signal.SIGKILL)\ntime.sleep(60)", processes=3)
    assert not pretender.alive()


def test_a_process_that_fails_by_itself_takes_the_others_with_it(
    pretender: Pretender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "_FAILS_TOGETHER_SECONDS", 0.3)
    with pytest.raises(TrainingChildDied, match=r"status 1(.|\n)*no such device"):
        pretender.run("if rank: sys.exit('no such device')\ntime.sleep(60)", processes=2)


def test_our_own_kills_are_none_for_memory(pretender: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process fails by a defect while the kernel kills something else for memory."""
    monkeypatch.setattr(child, "_FAILS_TOGETHER_SECONDS", 0.3)
    counts = iter([3, 4])
    monkeypatch.setattr(child, "memory_kills", lambda: next(counts, 4))
    with pytest.raises(TrainingChildDied, match="no such device"):
        pretender.run("if rank: sys.exit('no such device')\ntime.sleep(60)", processes=2)


def test_hears_the_error_that_only_one_rank_met(pretender: Pretender) -> None:
    said = """print('{"event":"error","code":"disk_full","message":"no room"}', flush=True)"""
    first = "pid = sys.argv[1] + '.pid'\nwhile not (os.path.exists(pid) and os.path.getsize(pid)): time.sleep(0.01)"
    with pytest.raises(DiskFull, match="no room"):
        pretender.run(f"{first}\nif rank == 1: {said}\ntime.sleep(60)", processes=2)
    assert not pretender.alive()


def test_asks_every_rank_to_save_first(pretender: Pretender) -> None:
    save = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
    meet = (
        "open(f'{sys.argv[1]}.{rank}', 'w')\nwhile not os.path.exists(f'{sys.argv[1]}.{1 - rank}'): time.sleep(0.01)\n"
    )
    with pytest.raises(TrainingChildStopped) as stopped:
        pretender.run(f"{save}{meet}{READY}time.sleep(60)", wish="handover", processes=2)
    assert stopped.value.saved
    assert not pretender.alive()
