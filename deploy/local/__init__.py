"""The embedded stack: Postgres and Valkey from wheels, and every process of the platform, under one supervisor."""
