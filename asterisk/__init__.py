"""The only place that speaks AMI: what is sent, what is heard, and what is looked up after a gap.

- `ami`, `connection`: the one wrapper of panoramisk; `pool`: sending from threads;
- `link`: the listener's connection; `events`: an AMI event → a sighting;
- `listener`: one a node, writes sightings in batches and frees slots;
- `reconcile`: the truth about an open attempt after a gap;
- `inspection`: what an Asterisk says of itself, for `trunkline doctor`; `advisories`: what is known of its version;
- `etc/`: Asterisk's own configuration and dialplan; `configuration`: how it is filled in.

A connection that was away is a gap: what it missed is looked up, never guessed (invariant 5).
Nothing here sends an Originate twice.
"""
