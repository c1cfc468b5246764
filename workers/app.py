"""The Celery app, as `celery-redis` has to be set up to be trusted.

Messages may vanish or come twice (kombu #305, celery #4354): the ledger publishes again what it still
shows as queued, and the claim makes a second delivery harmless. So acknowledgement is early, and there
is no countdown, no ETA, no retry and no result.
"""

from __future__ import annotations

from celery import Celery

from models.settings import Settings

QUEUE = "trunkline"
WEBHOOKS_QUEUE = "webhooks"  #: with workers of its own: no receiver slows a call
_REDIS = {
    "socket_timeout": 3,
    "socket_connect_timeout": 3,
    "socket_keepalive": True,
    "health_check_interval": 2,  # a worker that is connected and deaf finds out within two of them
    "retry_on_timeout": True,
    "visibility_timeout": 3600,
    "global_keyprefix": "{trunkline}:broker:",
}
_PUBLISH = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}


def make_app(settings: Settings) -> Celery:
    """An app on the broker of these settings; without a broker address it can only be inspected."""
    app = Celery("trunkline", include=["workers.tasks"], set_as_current=False)
    app.conf.update(
        broker_url=settings.redis_url.get_secret_value() if settings.redis_url else None,
        broker_transport_options=_REDIS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # it is tried again until it is back, every 30 s in the end
        broker_channel_error_retry=True,  # of a Redis with no memory left, which would end the worker
        broker_connection_timeout=5,
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        task_default_queue=QUEUE,
        task_acks_late=False,
        task_publish_retry=True,
        task_publish_retry_policy=_PUBLISH,
        worker_prefetch_multiplier=1,
        worker_send_task_events=True,
        worker_soft_shutdown_timeout=5,
        worker_hijack_root_logger=False,
        enable_utc=True,
        timezone="UTC",
    )
    return app
