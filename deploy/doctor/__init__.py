"""`trunkline doctor`: is each part there, is it the right version, does it do what trunkline needs, and what to do if not.

    postgres, redis, this machine ──▶ each Asterisk node, the scheduler, the workers, the queue

Every look has a bound, and what does not come back in time is said as that: with any part down the rest
is still looked at, within fifteen seconds. Nothing is changed, nobody is dialled.
"""
