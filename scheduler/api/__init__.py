"""The HTTP API: everything that the command line does, over the same functions, in the words of the reference service.

    request ──▶ gate (key, scope, limits) ──▶ route ──▶ a function of `scheduler`, in one transaction ──▶ answer
                  │                             │
                  └── 401 403 413 429           └── 404 409 422 503, as RFC 9457 problems

Routes are plain functions in a bounded pool of threads: the ledger is synchronous. What a body and an answer hold is said by pydantic
models beside their routes, and `/docs` and `/openapi.json` are made from them; unknown fields are refused. Several processes may
run, and one that dies loses nothing that was answered: what a process keeps for itself is counts (how often and how many at once
may ask, what it has answered) and the last look at `/readyz`.
"""
