"""A lease is as long as it says from the moment at which it is written, whatever the heartbeat had to wait for."""

import math
import threading

import pytest
import sqlalchemy as sa

from shared import jobs
from shared.jobs import Job
from shared.jobs.context import JobContext
from shared.jobs.runner import claim
from shared.messages import SteerSearch
from shared.wiring import Wiring

pytestmark = pytest.mark.stack
_HELD_SECONDS, _LEASE_SECONDS = 3.0, 30.0


def test_a_heartbeat_that_waited_for_the_jobs_row_renews_the_lease_from_then_on(
    wiring: Wiring, project_id: str
) -> None:
    with wiring.database.transaction(project_id) as session:
        job = jobs.send(session, project_id, SteerSearch(search_id="search_1"), subject_id="search_1")
    claimed = claim(wiring.database, project_id, job.id, worker="test", lease=_LEASE_SECONDS)
    assert claimed is not None
    context = JobContext(claimed, wiring, threading.Event())
    beat = threading.Thread(target=context.heartbeat, args=(_LEASE_SECONDS,), kwargs={"renew": True})
    with context.transaction() as session:
        beat.start()
        # the row is held for so long, which is what is tested; by a statement, for an idle transaction would be ended
        session.execute(sa.select(sa.func.pg_sleep(_HELD_SECONDS)))
        assert beat.is_alive()
    beat.join(10)
    with wiring.database.transaction(project_id) as session:
        left = session.scalars(
            sa.select(sa.extract("epoch", Job.lease_expires_at - sa.func.now())).where(Job.id == job.id)
        ).one()
    assert float(left) > _LEASE_SECONDS - _HELD_SECONDS / 2


@pytest.mark.parametrize(("seconds", "told"), [(0.5, "500ms"), (60, "1min"), (math.inf, "0")])
def test_a_transaction_idles_as_long_as_it_was_allowed_to_and_the_next_one_as_ever(
    wiring: Wiring, project_id: str, seconds: float, told: str
) -> None:
    shown = sa.text("SHOW idle_in_transaction_session_timeout")
    with wiring.database.transaction(project_id) as session:
        before = session.scalars(shown).one()
    with wiring.database.transaction(project_id, idle_seconds=seconds) as session:
        assert session.scalars(shown).one() == told
    with wiring.database.transaction(project_id) as session:
        assert session.scalars(shown).one() == before
