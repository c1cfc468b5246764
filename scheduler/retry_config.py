"""`retry_config` of a call or a batch, in the reference service's form: when somebody who was not reached is called again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

_LONGEST_INTERVAL = 7 * 24 * 60  # minutes
_Minutes = Annotated[int, Field(ge=1, le=_LONGEST_INTERVAL)]


class RetryConfig(BaseModel):
    """Kept and shown; nothing is retried by it yet."""

    model_config = ConfigDict(extra="forbid", strict=True)

    enabled: bool = False
    max_retries: int = Field(3, ge=1, le=3)
    retry_on_statuses: list[Literal["no-answer", "busy", "failed", "error"]] = Field(
        ["no-answer", "busy", "failed"], max_length=4
    )
    retry_on_voicemail: bool = False
    retry_intervals_minutes: list[_Minutes] = Field(
        [30, 60, 120], min_length=1, max_length=3, description="Before the first retry, the second and the third."
    )
