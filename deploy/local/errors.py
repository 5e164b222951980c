"""What can go wrong around the embedded stack; every message says what to do."""


class StackError(Exception):
    """The stack cannot start, or does not answer; the message is fit to print."""


class PortTaken(StackError):
    def __init__(self, port: int) -> None:
        super().__init__(
            f"Port {port} is taken by another program. Stop it, or choose another port: UPLIFT_PORT=8001 uplift up."
        )


class DiskFull(StackError):
    def __init__(self, folder: object, free_mb: int, need_mb: int) -> None:
        super().__init__(
            f"Only {free_mb} MB are free at {folder}; the stack needs {need_mb} MB. Free some space first."
        )


class AlreadyRunning(StackError):
    """Another supervisor holds this home."""


class EngineFailed(StackError):
    """Postgres or Valkey did not come up; carries the end of its log."""


class NoUnprivilegedUser(StackError):
    def __init__(self, reason: str) -> None:
        super().__init__(
            "Postgres refuses to run as root, and neither a user namespace nor a folder of its own under /var/lib "
            f"could be set up ({reason}). Run as an ordinary user, or set DATABASE_URL to a Postgres with pgvector."
        )


class HomeNotWritable(StackError):
    def __init__(self, home: object, error: OSError) -> None:
        super().__init__(f"{home} cannot be written ({error}). Set UPLIFT_HOME to a folder of yours.")
