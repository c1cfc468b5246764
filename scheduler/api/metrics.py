"""`/metrics`: what a monitor asks for."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from models.slots import Slots
from scheduler.api.parts import Using
from scheduler.metrics import LedgerCollector
from scheduler.presence import open_redis

router = APIRouter(tags=["health"])


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
)
def metrics(request: Request, using: Using) -> Response:
    """In Prometheus's words: the ledger's counts and slots, the same from every process, and this one's requests."""
    registry = CollectorRegistry()
    registry.register(request.app.state.answered)
    with open_redis(using.settings) as redis:
        registry.register(LedgerCollector(using.engine, Slots(redis)))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
