"""Adapters that clients bring: checked as bytes, then loaded in a process of its own, then served like our own."""
