"""Stored chat completions: answers asked with `store`, kept with what was asked until they are deleted or expire."""
