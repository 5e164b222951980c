"""Uploads: a large file sent in parts, in any order and in parallel, and put together at the end."""
