"""`celery -A workers.main`: the app with this process's settings, for the worker and for Flower."""

from __future__ import annotations

from typing import Any

from celery.signals import setup_logging

from models.logs import configure
from models.settings import read_settings
from workers.app import make_app

settings = read_settings()
app = make_app(settings)
app.set_default()


@setup_logging.connect
def _our_logging(**_: Any) -> None:
    configure(settings.log_level)
