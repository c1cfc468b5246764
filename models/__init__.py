"""What is true: the ledger in Postgres, the slots in Redis, and the words for both.

Everything that the rest of trunkline believes about a call is written here and nowhere else:

- `statuses`: the statuses and the one table that says which follows which;
- `outcome`: what was seen on the wire → status, disposition and a sentence for the operator;
- `schema`, `migrations/`: the tables, and the views that Asterisk reads;
- `ledger` and `sql/`: every write to an attempt or a call, each conditional on what it replaces;
- `slots` and `lua/`: the right to have a call up, one script, all limits or none;
- `settings`: the environment, read once.

Postgres is the ledger, Redis is a hint (invariant 1): whatever Redis forgets is rebuilt from the
attempts that are open in Postgres before anything more is granted. `models` imports none of the
other packages.
"""
