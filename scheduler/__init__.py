"""What may be called now: intake of uploads, the grant loop, and the commands of the operator.

    CSV ──▶ intake ──▶ calls (scheduled) ──▶ leader: pick, take slots, write attempts, publish ──▶ workers

One leader at a time holds the role `trunkline-scheduler`; standbys wait (`models.roles`). It grants only
what has a slot of every scope, and publishes only what is committed, so that no task ever waits.
What it has granted and cannot publish, or what nobody claims, it publishes again; what stays unclaimed
for 30 s it withdraws. When Redis is in doubt nothing is granted until the slots have been rebuilt from
the ledger. Beside it, with a role of its own, the prober looks at the gateways (`scheduler.prober`) and
decides nothing.
"""
