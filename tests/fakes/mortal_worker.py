"""The echo worker on a queue of its own, for tests that kill it."""

from shared.settings import Settings
from shared.task_queue import make_worker_app
from shared.wiring import Wiring
from tests.fakes.echo_worker import echo

app = make_worker_app(
    "mortal", ["test.mortal.interactive"], lambda: Wiring.from_settings(Settings()), {}, {"test.echo": echo}
)
