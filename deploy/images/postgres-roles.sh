#!/bin/sh
# First start only: the application's login, a plain member of uplift_app, and the vector extension.
set -eu
psql -v ON_ERROR_STOP=1 -v password="$UPLIFT_DB_PASSWORD" -U postgres -d uplift <<'SQL'
CREATE ROLE uplift_app NOLOGIN;
CREATE ROLE uplift LOGIN PASSWORD :'password' IN ROLE uplift_app;
CREATE EXTENSION IF NOT EXISTS vector;
SQL
