"""Answers questions: prompts, variants and releases, and the engine that generates.

Owns prompts, variants and releases. Hears OrderVariants and OrderRelease. Answers generation.chat. Says
DeleteWeights.
"""
