"""What trunkline is measured against: other ways to have the same Asterisk make the same calls.

    blaster      a raw AMI script that only sends Originates: what this Asterisk can do
    call_files   Asterisk's own spool of call files
    textbook     a dialer as one finds it written: a Celery task blocks for each call, a counter in Redis, `countdown` when full

Each gets the very Originates that our worker would send (built by the worker's own class), through the same trunk rows,
and Asterisk asks the same gate: rows that may be dialled are in the ledger before the clock starts, so a peer neither
picks, claims nor records anything. None takes more than the same number of slots. While they have their turn none of
our processes runs, and afterwards their rows are removed, so that nothing looks them up.
"""
