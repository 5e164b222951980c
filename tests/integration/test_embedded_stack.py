"""The embedded engines on this machine: first start, restart, settings, failure messages, and both ways past root."""

import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from deploy.local import engines as engines_module
from deploy.local import postgres as postgres_module
from deploy.local.child import Child, Identity, ProcessSpec, create_time, rotate
from deploy.local.credentials import load_or_make
from deploy.local.engines import EmbeddedEngines
from deploy.local.errors import AlreadyRunning, DiskFull, EngineFailed, PortTaken
from deploy.local.layout import Layout
from deploy.local.state import ProcessState, StackState
from deploy.local.supervisor import check_port
from tests.fakes.processes import wait_until

pytestmark = pytest.mark.stack


def setting(engines: EmbeddedEngines, name: str) -> str:
    with psycopg.connect(engines.admin_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
    assert row is not None
    return str(row[0])


def test_starts_in_a_private_folder_keeps_data_and_leaves_permissions_alone(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    home = private / "home"
    for visit in (1, 2):
        engines = EmbeddedEngines(home)
        engines.start()
        with psycopg.connect(engines.admin_url.replace("+psycopg", "")) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS visits (n int)")
            connection.execute("INSERT INTO visits VALUES (1)")
            counted = connection.execute("SELECT count(*) FROM visits").fetchone()
        pids = [child.pid for child in engines.children]
        engines.stop()
        assert counted == (visit,)
        assert all(create_time(pid) is None for pid in pids)
    assert private.stat().st_mode & 0o777 == 0o700
    assert (home / "secrets" / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_runs_with_explicit_safe_settings(engines: EmbeddedEngines) -> None:
    assert setting(engines, "listen_addresses") == "127.0.0.1"
    assert setting(engines, "password_encryption") == "scram-sha-256"
    assert setting(engines, "fsync") == "on"
    with redis.Redis.from_url(engines.redis_url) as client:
        config = client.config_get("*")
    assert (config["appendonly"], config["maxmemory-policy"], config["bind"]) == ("yes", "noeviction", "127.0.0.1")


def test_refuses_logins_without_the_password(engines: EmbeddedEngines) -> None:
    without = engines.database_url.replace("+psycopg", "").split("@")[1]
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(f"postgresql://uplift:wrong@{without}")
    with redis.Redis.from_url("redis://" + engines.redis_url.split("@")[1]) as client:
        with pytest.raises(redis.AuthenticationError):
            client.ping()


def test_knows_pgvector(engines: EmbeddedEngines) -> None:
    with psycopg.connect(engines.admin_url.replace("+psycopg", "")) as connection:
        row = connection.execute("SELECT '[1,2]'::vector <-> '[1,4]'::vector").fetchone()
    assert row == (2.0,)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
def test_falls_back_to_a_folder_and_a_user_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = Path("/var/lib/uplift-test")
    own.mkdir(mode=0o755, exist_ok=True)
    monkeypatch.setattr(postgres_module, "_OWN_FOLDERS", own)
    monkeypatch.setattr(postgres_module, "choose_identity", lambda _home: Identity("user", 65534))
    engines = EmbeddedEngines(tmp_path / "home")
    try:
        engines.start()
        postgres = engines.children[0]
        assert psutil.Process(postgres.pid).uids().real == 65534
        assert list(own.glob("*/data/PG_VERSION"))
    finally:
        engines.stop()
        subprocess.run(["rm", "-rf", str(own)], check=True)


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
def test_goes_on_where_the_data_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "_OWN_FOLDERS", tmp_path / "own")
    monkeypatch.setattr(postgres_module, "_namespace_refused", lambda _home, _uid: None)
    home = tmp_path / "home"
    assert postgres_module.choose_identity(home).kind == "namespace"
    data = postgres_module._own_folder(home) / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("18")
    assert postgres_module.choose_identity(home).kind == "user"


@pytest.mark.skipif(os.getuid() != 0, reason="only root has to become somebody else")
def test_refuses_to_hide_data_that_it_can_no_longer_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_module, "_OWN_FOLDERS", tmp_path / "own")
    monkeypatch.setattr(postgres_module, "_namespace_refused", lambda _home, _uid: "unshare: forbidden")
    assert postgres_module.choose_identity(tmp_path).kind == "user"
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("18")
    with pytest.raises(EngineFailed, match=r"unshare: forbidden.*DATABASE_URL"):
        postgres_module.choose_identity(tmp_path)


def test_looks_like_an_account_that_exists() -> None:
    assert pwd.getpwuid(postgres_module._unprivileged_uid()).pw_uid != 0


@pytest.mark.skipif(os.getuid() != 0, reason="needs another user's folder")
def test_sees_that_a_namespace_cannot_reach_another_users_folder(tmp_path: Path) -> None:
    uid = postgres_module._unprivileged_uid()
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o700)
    if postgres_module._namespace_refused(theirs, uid) is not None:
        pytest.skip("this machine allows no user namespaces")
    os.chown(theirs, uid, uid)
    assert "no access" in str(postgres_module._namespace_refused(theirs, uid))


def test_survives_a_killed_postgres_whose_pid_is_somebody_elses_now(tmp_path: Path) -> None:
    engines = EmbeddedEngines(tmp_path / "home", redis_url="redis://elsewhere")
    engines.start()
    engines.children[0].stop()
    lock = next(path for path in (tmp_path / "home").rglob("postgres") if path.is_dir()) / "postmaster.pid"
    with subprocess.Popen(["/bin/sleep", "600"]) as somebody:
        lock.write_text(f"{somebody.pid}\n{lock.parent}\n")
        again = EmbeddedEngines(tmp_path / "home", redis_url="redis://elsewhere")
        try:
            again.start()
            with psycopg.connect(again.admin_url.replace("+psycopg", "")) as connection:
                assert connection.execute("SELECT 1").fetchone() == (1,)
        finally:
            again.stop()
            somebody.kill()


def test_refuses_a_second_postgres_on_the_same_data(tmp_path: Path) -> None:
    first = EmbeddedEngines(tmp_path / "home", redis_url="redis://elsewhere")
    first.start()
    try:
        with pytest.raises(AlreadyRunning, match="uplift down"):
            EmbeddedEngines(tmp_path / "home", redis_url="redis://elsewhere").start()
        with psycopg.connect(first.admin_url.replace("+psycopg", "")) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    finally:
        first.stop()


def test_says_how_to_get_another_port_when_it_is_taken() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} is taken.*UPLIFT_PORT"):
            check_port(port)


def test_refuses_to_start_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines_module, "NEEDED_MB", 10**9)
    with pytest.raises(DiskFull, match="Free some space"):
        EmbeddedEngines(tmp_path / "home").start()


def test_keeps_its_secrets_between_starts(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    layout.make()
    assert load_or_make(layout) == load_or_make(layout)


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from deploy.local.child import Child, ProcessSpec\n"
        "child = Child(ProcessSpec('sleeper', ['/bin/sleep', '600']), Path(sys.argv[1])); child.start()\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: psutil.Process(pid).name() == "sleep", seconds=5)
        parent.kill()
    wait_until(lambda: create_time(pid) is None, seconds=5)


def test_kills_a_child_that_ignores_the_polite_signal(tmp_path: Path) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    child = Child(ProcessSpec("stubborn", [sys.executable, "-c", stubborn], grace_seconds=0.3), tmp_path)
    child.start()
    wait_until(lambda: "deaf" in child.log_end(), seconds=10)
    child.stop()
    assert child.exit_code() == -signal.SIGKILL


def test_keeps_logs_in_bounds(tmp_path: Path) -> None:
    log = tmp_path / "some.log"
    log.write_text("x" * 100)
    rotate(log, limit=50)
    assert log.read_text() == ""
    assert (tmp_path / "some.log.1").read_text() == "x" * 100


def test_tells_a_dead_process_from_a_later_one_with_its_pid() -> None:
    me = os.getpid()
    created = create_time(me)
    assert created is not None
    state = StackState("ready", me, created, 8000, processes=[ProcessState("x", me, created)])
    assert state.supervisor_lives()
    assert not StackState("ready", me, created - 100, 8000).supervisor_lives()
    assert time.time() > created
