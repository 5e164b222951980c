"""Single reads outlive the connections that they were made on."""

import asyncio
import time
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.look_ups import Unanswered
from shared.settings import Settings

pytestmark = pytest.mark.stack
_OWN = "SELECT pg_backend_pid() AS pid, $1::text AS said"


def test_answers_one_row_by_name_or_none(settings: Settings) -> None:
    async def ask(database: Database) -> None:
        assert (await database.look_up(_OWN, "hello")).said == "hello"
        assert await database.look_up("SELECT 1 AS one WHERE $1::bool", "false") is None

    database = Database(settings.database_url)
    asyncio.run(ask(database))
    database.close()


def test_raises_what_postgres_refuses_and_goes_on(settings: Settings) -> None:
    async def ask(database: Database) -> None:
        with pytest.raises(psycopg.errors.InvalidTextRepresentation):
            await database.look_up("SELECT $1::int AS number", "many")
        with pytest.raises(psycopg.errors.UndefinedTable):
            await database.look_up("SELECT * FROM nowhere")
        assert (await database.look_up("SELECT $1::int AS number", "3")).number == 3

    database = Database(settings.database_url)
    asyncio.run(ask(database))
    database.close()


def test_uses_a_connection_again(settings: Settings) -> None:
    async def pids(database: Database) -> tuple[int, int]:
        return (await database.look_up(_OWN, "a")).pid, (await database.look_up(_OWN, "b")).pid

    database = Database(settings.database_url)
    first, second = asyncio.run(pids(database))
    assert first == second
    database.close()


def test_asks_again_on_a_new_connection_when_postgres_has_ended_the_old_one(settings: Settings) -> None:
    async def ask(database: Database) -> None:
        first = (await database.look_up(_OWN, "before")).pid
        with psycopg.connect(
            sa.make_url(settings.database_url).set(drivername="postgresql").render_as_string(False)
        ) as own:
            own.execute("SELECT pg_terminate_backend(%s, 5000)", [first])
        found = await database.look_up(_OWN, "after")
        assert (found.said, found.pid != first) == ("after", True)

    database = Database(settings.database_url)
    asyncio.run(ask(database))
    database.close()


def test_a_reader_that_is_cancelled_leaves_no_half_read_connection(settings: Settings) -> None:
    async def ask(database: Database) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(database.look_up("SELECT pg_sleep(10)"), timeout=0.3)
        assert (await database.look_up(_OWN, "next")).said == "next"

    database = Database(settings.database_url)
    asyncio.run(ask(database))
    database.close()


def test_does_not_wait_for_a_postgres_that_hangs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.look_ups._PATIENCE_SECONDS", 0.3)

    async def ask(database: Database) -> float:
        await database.look_up(_OWN, "a connection to be used again")
        began = time.monotonic()
        with pytest.raises(Unanswered, match=r"did not answer within 0\.3 s"):
            await database.look_up("SELECT pg_sleep(30)")
        assert (await database.look_up(_OWN, "next")).said == "next"
        return time.monotonic() - began

    database = Database(settings.database_url)
    assert asyncio.run(ask(database)) < 5
    database.close()


def test_says_so_when_postgres_is_away(settings: Settings) -> None:
    address = sa.make_url(settings.database_url).set(host="127.0.0.1", port=1)
    database = Database(address.render_as_string(hide_password=False))
    with pytest.raises(psycopg.OperationalError):
        asyncio.run(database.look_up(_OWN, "anybody?"))


def test_takes_no_more_connections_than_the_pool_may_and_keeps_fewer(settings: Settings) -> None:
    slow = "SELECT clock_timestamp() AS began, pg_sleep(0.1), clock_timestamp() AS ended"

    async def ask(database: Database) -> list[Any]:
        return await asyncio.gather(*(database.look_up(slow) for _ in range(12)))

    database = Database(settings.database_url, pool_size=1)
    found = asyncio.run(ask(database))
    at_once = [sum(one.began <= row.began < one.ended for one in found) for row in found]
    assert max(at_once) <= 3
    with psycopg.connect(database._look_ups._address) as own:
        mine = "SELECT count(*) FROM pg_stat_activity WHERE query = %s AND state = 'idle'"
        (kept,) = own.execute(mine, [slow]).fetchone() or (None,)
    assert kept == 1
    database.close()
