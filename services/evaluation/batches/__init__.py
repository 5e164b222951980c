"""Batches: a file of requests, asked in the background within 24 hours, and a file of their answers."""
