"""Single reads outlive the connections that they were made on."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import uvloop

from shared.database import Database
from shared.look_ups import ConnectionLost, Unanswered, _Line
from shared.settings import Settings
from shared.wiring import Wiring
from tests.fakes.standstill import stand_still

pytestmark = pytest.mark.stack
_OWN = "SELECT pg_backend_pid() AS pid, $1::text AS said"
_ASKED = "SELECT pid FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs a coroutine on a loop of either kind: the gateway's is uvloop's."""

    def running(asking: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=request.param) as runner:
            return runner.run(asking)

    return running


def own_connection(url: str) -> psycopg.Connection[Any]:
    return psycopg.connect(sa.make_url(url).set(drivername="postgresql").render_as_string(False), autocommit=True)


async def interrupt(url: str, pid: int, how: str) -> None:
    """Have Postgres end the read that the connection `pid` is about to make, or the connection itself."""
    with own_connection(url) as own:
        while own.execute(_ASKED, [pid]).fetchone() is None:
            await asyncio.sleep(0.01)
        own.execute(f"SELECT {how}(%s)", [pid])


def test_answers_one_row_by_name_or_none(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        assert (await database.look_up(_OWN, "hello")).said == "hello"
        assert await database.look_up("SELECT 1 AS one WHERE $1::bool", "false") is None

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_raises_what_postgres_refuses_and_goes_on(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await database.look_up("SELECT $1::int AS number", "many")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.look_up("SELECT * FROM nowhere")
        assert (await database.look_up("SELECT $1::int AS number", "3")).number == 3

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_uses_a_connection_again(settings: Settings, run: Run) -> None:
    async def pids(database: Database) -> tuple[int, int]:
        return (await database.look_up(_OWN, "a")).pid, (await database.look_up(_OWN, "b")).pid

    database = Database(settings.database_url)
    first, second = run(pids(database))
    assert first == second
    database.close()


def test_asks_again_on_a_new_connection_when_postgres_has_ended_the_old_one(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        first = (await database.look_up(_OWN, "before")).pid
        with own_connection(settings.database_url) as own:
            own.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        found = await database.look_up(_OWN, "after")
        assert (found.said, found.pid != first) == ("after", True)

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_a_reader_that_is_cancelled_leaves_no_half_read_connection(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(database.look_up("SELECT pg_sleep(10)"), timeout=0.3)
        assert (await database.look_up(_OWN, "next")).said == "next"

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_does_not_wait_for_a_postgres_that_hangs(settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.look_ups._PATIENCE_SECONDS", 1.0)

    async def ask(database: Database) -> float:
        await database.look_up(_OWN, "a connection to be used again")
        began = time.monotonic()
        with pytest.raises(Unanswered, match=r"did not answer within 1 s"):
            await database.look_up("SELECT pg_sleep(30)")
        assert (await database.look_up(_OWN, "next")).said == "next"
        return time.monotonic() - began

    database = Database(settings.database_url)
    assert run(ask(database)) < 5
    database.close()


def test_gives_all_trips_of_a_read_one_deadline(
    settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch, admin_database: Database
) -> None:
    monkeypatch.setattr("shared.look_ups._PATIENCE_SECONDS", 1.0)

    async def ask(database: Database, locking: psycopg.Connection[Any]) -> None:
        await database.look_up(_OWN, "a connection to be used again")
        asyncio.get_running_loop().call_later(0.7, locking.rollback)
        with pytest.raises(Unanswered):  # 0.7 s until it is prepared, and 0.7 s until it is answered
            await database.look_up("SELECT pg_sleep(0.7) FROM locked_for_a_while")

    database = Database(settings.database_url)
    with own_connection(admin_database.url) as own:
        own.execute("CREATE TABLE locked_for_a_while AS SELECT 1 AS one")
        own.execute("GRANT SELECT ON locked_for_a_while TO public")
        own.autocommit = False
        own.execute("LOCK TABLE locked_for_a_while IN ACCESS EXCLUSIVE MODE")
        run(ask(database, own))
        own.execute("DROP TABLE locked_for_a_while")
        own.commit()
    database.close()


def test_connecting_is_part_of_the_read(settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.look_ups._PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = sa.make_url(settings.database_url).set(host="127.0.0.1", port=silent.getsockname()[1], query={})
        database = Database(address.render_as_string(hide_password=False))
        with pytest.raises(Unanswered):
            run(database.look_up(_OWN, "anybody?"))
        database.close()


def test_reads_an_answer_that_came_while_the_loop_stood_still(
    settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(database: Database) -> None:
        slow = "SELECT pg_sleep(0.2), $1::text AS said"
        await database.look_up(slow, "a statement to be used again")
        monkeypatch.setattr("shared.look_ups._PATIENCE_SECONDS", 0.5)
        asked = asyncio.create_task(database.look_up(slow, "late"))
        await asyncio.sleep(0.05)
        await stand_still(1)
        assert (await asked).said == "late"

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_asks_once_what_postgres_was_told_to_cancel(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        both = await asyncio.gather(
            *(database.look_up("SELECT pg_backend_pid() AS pid, pg_sleep(0.1)") for _ in range(2))
        )
        asked = await database.look_up(_OWN, "who is asked next?")
        (kept,) = {one.pid for one in both} - {asked.pid}
        cancelling = asyncio.create_task(interrupt(settings.database_url, asked.pid, "pg_cancel_backend"))
        with pytest.raises(psycopg.errors.QueryCanceled):
            await database.look_up("SELECT pg_sleep(5)")
        await cancelling
        assert (await database.look_up(_OWN, "next")).pid == kept

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_asks_again_what_postgres_left_unanswered_at_its_end(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        first = (await database.look_up(_OWN, "before")).pid
        ending = asyncio.create_task(interrupt(settings.database_url, first, "pg_terminate_backend"))
        found = await database.look_up("SELECT pg_sleep(1), pg_backend_pid() AS pid")
        await ending
        assert found.pid != first

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_says_so_when_a_new_connection_is_lost_too(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        with pytest.raises(ConnectionLost, match="terminating connection"):
            await database.look_up("SELECT pg_terminate_backend(pg_backend_pid())")

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_tells_the_asker_of_an_answer_that_is_none(settings: Settings, run: Run) -> None:
    async def ask(database: Database) -> None:
        await database.look_up(_OWN, "a connection")
        (line,) = database._look_ups._idle
        deadline = asyncio.get_running_loop().time() + 5
        asked = asyncio.create_task(line._exchange(lambda: None, deadline))
        await asyncio.sleep(0)
        line._hear()
        with pytest.raises(psycopg.InternalError, match="without a result"):
            await asked

    database = Database(settings.database_url)
    run(ask(database))
    database.close()


def test_an_app_ends_its_connections_in_the_thread_of_their_loop(
    wiring: Wiring, settings: Settings, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended_by: list[int] = []
    end = _Line.end
    monkeypatch.setattr(_Line, "end", lambda line: (ended_by.append(threading.get_ident()), end(line)))

    async def serve(parts: Wiring) -> None:
        await asyncio.gather(*(parts.database.look_up("SELECT pg_sleep(0.1)") for _ in range(2)))
        await parts.aclose()

    run(serve(Wiring(settings, Database(settings.database_url), wiring.storage, wiring.live)))
    assert ended_by == [threading.get_ident()] * 2


def test_says_so_when_postgres_is_away(settings: Settings, run: Run) -> None:
    address = sa.make_url(settings.database_url).set(host="127.0.0.1", port=1)
    database = Database(address.render_as_string(hide_password=False))
    with pytest.raises(psycopg.OperationalError):
        run(database.look_up(_OWN, "anybody?"))


def test_takes_no_more_connections_than_the_pool_may_and_keeps_fewer(settings: Settings, run: Run) -> None:
    slow = "SELECT clock_timestamp() AS began, pg_sleep(0.1), clock_timestamp() AS ended"

    async def ask(database: Database) -> list[Any]:
        return await asyncio.gather(*(database.look_up(slow) for _ in range(12)))

    database = Database(settings.database_url, pool_size=1)
    found = run(ask(database))
    at_once = [sum(one.began <= row.began < one.ended for one in found) for row in found]
    assert max(at_once) <= 3
    with psycopg.connect(database._look_ups._address) as own:
        mine = "SELECT count(*) FROM pg_stat_activity WHERE query = %s AND state = 'idle'"
        (kept,) = own.execute(mine, [slow]).fetchone() or (None,)
    assert kept == 1
    database.close()
