"""Postgres, Valkey and Asterisk of our own, for one machine, started from nothing in seconds.

Each service is a frozen dataclass of a directory and its ports with two verbs: `prepare()` makes
the directory ready (idempotent; an interrupted one is made again, data is never deleted) and
`part()` describes the process. Passwords are made once and stay in files that only their owner can
read; none is in an argv. Everything listens on loopback but SIP, which the settings place.

Where you have a Postgres, a Redis or an Asterisk, set its address and the embedded one stays off.
"""
