"""The database itself keeps tenants apart: forced row-level security, few and known exceptions."""

import subprocess
import sys

import pytest
import sqlalchemy as sa

from deploy.local.engines import EmbeddedEngines
from shared import jobs
from shared.database import Database
from shared.messages import ImportDataset
from tests.conftest import ROOT, make_project

pytestmark = pytest.mark.stack

SYSTEM_FUNCTIONS = {
    "authenticate_key",
    "take_outbox",
    "requeue_expired_jobs",
    "unclaimed_jobs",
    "wake_unclaimed_jobs",
    "order_purges",
}


def test_forces_row_level_security_on_every_table_with_a_tenant(database: Database) -> None:
    unprotected = sa.text(
        "SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'project_id' "
        "WHERE c.relkind IN ('r', 'p') AND c.relnamespace = 'public'::regnamespace "
        "AND NOT (c.relrowsecurity AND c.relforcerowsecurity)"
    )
    with database.system_transaction() as session:
        assert session.scalars(unprotected).all() == []


def test_shows_zero_rows_without_a_tenant(database: Database, project_id: str) -> None:
    with database.transaction(project_id) as session:
        jobs.send(session, project_id, ImportDataset(dataset_id="ds_x"))
    with database.system_transaction() as session:
        assert session.scalar(sa.text("SELECT count(*) FROM jobs")) == 0
        assert session.scalar(sa.text("SELECT count(*) FROM projects")) == 0
        assert session.scalar(sa.text("SELECT count(*) FROM api_keys")) == 0


def test_hides_one_tenants_rows_from_another(database: Database, admin_database: Database, project_id: str) -> None:
    stranger = make_project(admin_database)
    with database.transaction(project_id) as session:
        job_id = jobs.send(session, project_id, ImportDataset(dataset_id="ds_x")).id
    with database.transaction(stranger) as session:
        with pytest.raises(jobs.control.JobNotFound):
            jobs.get(session, job_id)
        changed = session.execute(sa.update(jobs.Job).where(jobs.Job.id == job_id).values(status="cancelled"))
        assert changed.rowcount == 0


def test_refuses_a_row_written_for_another_tenant(
    database: Database, admin_database: Database, project_id: str
) -> None:
    stranger = make_project(admin_database)
    with (
        pytest.raises(sa.exc.ProgrammingError, match="row-level security"),
        database.transaction(project_id) as session,
    ):
        jobs.send(session, stranger, ImportDataset(dataset_id="ds_x"))


def test_forgets_the_tenant_when_the_transaction_ends(database: Database, project_id: str) -> None:
    for _ in range(20):  # the pool hands the same connections out again
        with database.transaction(project_id) as session:
            assert session.scalar(sa.text("SELECT count(*) FROM projects")) == 1
        with database.system_transaction() as session:
            assert session.scalar(sa.text("SELECT count(*) FROM projects")) == 0


def test_only_the_reviewed_functions_see_across_tenants(database: Database) -> None:
    definers = sa.text(
        "SELECT p.proname, r.rolname FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner "
        "WHERE p.prosecdef AND p.pronamespace = 'public'::regnamespace"
    )
    with database.system_transaction() as session:
        found = {row.proname: row.rolname for row in session.execute(definers)}
    assert found == dict.fromkeys(SYSTEM_FUNCTIONS, "uplift_system")


def test_the_applications_login_is_an_ordinary_one(database: Database) -> None:
    with database.system_transaction() as session:
        row = session.execute(
            sa.text("SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user")
        ).one()
        owned = session.scalar(sa.text("SELECT count(*) FROM pg_class WHERE relowner = current_user::regrole"))
    assert tuple(row) == (False, False, False)
    assert owned == 0


def test_migrates_down_to_nothing_and_up_again(
    stack_environment: dict[str, str], engines: EmbeddedEngines, admin_database: Database
) -> None:
    def alembic(*words: str, url: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "alembic", "-c", "migrations/alembic.ini", *words],
            cwd=ROOT,
            env=stack_environment | {"DATABASE_ADMIN_URL": url},
            check=True,
            capture_output=True,
        )

    name = "uplift_migrated"
    engines.create_database(name)
    url = admin_database.engine.url.set(database=name).render_as_string(hide_password=False)
    tables = sa.text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'")
    scratch = sa.create_engine(url, poolclass=sa.pool.NullPool)
    for _ in range(2):
        alembic("upgrade", "head", url=url)
        alembic("downgrade", "base", url=url)
        with scratch.connect() as connection:
            assert connection.scalar(tables) == 0
