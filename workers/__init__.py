"""The Celery workers: thin tasks over plain functions.

A task carries ids only. It is published for an attempt that has its slot, so it never polls, sleeps
or counts down; the claim in Postgres makes a second delivery find nothing (early acks, no retries).
"""
