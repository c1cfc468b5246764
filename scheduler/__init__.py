"""What may be called now: intake of uploads, the grant loop, and the commands of the operator.

    CSV ──▶ intake ──▶ calls (scheduled) ──▶ leader: pick, take slots, write attempts, publish ──▶ workers

One leader at a time holds the role `trunkline-scheduler`; standbys wait (`models.roles`). It grants only
what has a slot of every scope, and publishes only what is committed, so that no task ever waits.
What it has granted and cannot publish, or what nobody claims, it publishes again; what stays unclaimed
for 30 s it withdraws. When Redis is in doubt nothing is granted until the slots have been rebuilt from
the ledger. Beside it, with a role of its own, the prober looks at the gateways and decides nothing.

- `leader`, `lines`, `grants`, `housekeeping`, `agent_watch`: who is called next, and what is put in order every second;
- `intake`, `csv_rows`, `loads`, `exports`: a CSV in, and its bad rows out again;
- `trunks`, `numbers`, `agents`, `campaigns`, `single`, `stopping`: what an operator makes, starts and ends;
- `metrics`: what a monitor asks for;
- `call_story`, `holdups`: why a call ended as it did, and why a campaign does not go on;
- `gateway_names`, `sip_options`, `probe`, `prober`: a look at a gateway; `trunk_check`, `trunk_evidence`, `trunk_points`: at a trunk;
- `cli/`: the commands, each a thin shell over one of these.
"""
