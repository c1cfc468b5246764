"""Hypothesis without its deadline: it is a timing assertion, and a busy machine breaks it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("trunkline", deadline=None)
settings.load_profile("trunkline")
