"""One linear history of the schema; run with `alembic -c migrations/alembic.ini upgrade head`."""
