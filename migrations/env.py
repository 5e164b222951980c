"""Alembic's entry point: connects as the schema's owner and runs each migration in one transaction."""

import sqlalchemy as sa
from alembic import context

from shared.settings import Settings


def run() -> None:
    url = Settings().database_admin_url
    if not url:
        raise SystemExit(
            "DATABASE_ADMIN_URL is not set: migrations run as the schema's owner. `uplift up` sets it for the "
            "embedded Postgres; on a cluster, give the owner's URL."
        )
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, transaction_per_migration=True)
        # two stacks starting at once must not both migrate: the second waits, then finds nothing to do
        connection.execute(sa.text("SELECT pg_advisory_lock(hashtext('uplift.migrations'))"))
        connection.commit()
        with context.begin_transaction():
            context.run_migrations()
        connection.execute(sa.text("SELECT pg_advisory_unlock(hashtext('uplift.migrations'))"))
        connection.commit()


run()
