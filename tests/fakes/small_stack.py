"""The real supervisor over Valkey and two small processes instead of the platform: `python -m tests.fakes.small_stack`.

UPLIFT_HOME and UPLIFT_PORT say where; DATABASE_URL must be set, so that no Postgres is started.
"""

import sys
from collections.abc import Mapping

from deploy.local.child import ProcessSpec
from deploy.local.layout import Layout
from deploy.local.processes import Step
from deploy.local.supervisor import Supervisor
from shared.settings import Settings

STEP_SECONDS = 0.5
READY = (
    f"import pathlib, sys, time; time.sleep({STEP_SECONDS}); pathlib.Path(sys.argv[1]).touch(); "
    "print('up', flush=True); time.sleep(600)"
)


def specs(layout: Layout, told: Mapping[str, str], port: int) -> list[ProcessSpec]:
    """Both take a moment, so that there is one to interrupt, and are ready when their marker is there."""
    markers = {name: layout.ready_marker(name) for name in ("first", "second")}
    return [
        ProcessSpec(
            name,
            [sys.executable, "-c", READY, str(marker)],
            environment=told,
            grace_seconds=5,
            ready_marker=marker,
            stage=stage,
        )
        for stage, (name, marker) in enumerate(markers.items(), start=1)
    ]


if __name__ == "__main__":
    found = Settings()
    step = Step("take a moment", [sys.executable, "-c", f"import time; time.sleep({STEP_SECONDS})"], {})
    sys.exit(Supervisor(found.home, found.port, steps=lambda _engines, _told: [step], specs=specs).run())
