"""What is true: the ledger in Postgres, the slots in Redis, and the words for both.

Everything that the rest of trunkline believes about a call is written here and nowhere else:

- `statuses`: the statuses and the one table that says which follows which;
- `sightings`, `outcome`: what was seen on the wire → status and disposition;
- `explanations`, `contexts`: what an operator is told of it, for this trunk's form; `findings`: of a part;
- `gateways`: what an end says of its gateway, and when the next one may be tried;
- `schema`, `migrations/`: the tables, and the views that Asterisk reads;
- `ledger` and `sql/`: every write to an attempt or a call, each conditional on what it replaces;
- `slots` and `lua/`: the right to have a call up, one script, all limits or none;
- `points`: where a fault matters most; `repairs`: how often something had to be put right;
- `settings`, `addresses`: the environment, read once; `roles`: who leads.

Postgres is the ledger, Redis is a hint (invariant 1): whatever Redis forgets is rebuilt from the
attempts that are open in Postgres before anything more is granted. `models` imports none of the
other packages.
"""
