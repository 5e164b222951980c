"""The `uplift` command: a client of the public API, and the one place that starts the embedded stack.

Owns nothing, hears nothing, says nothing.
"""
