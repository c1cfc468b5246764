"""`POST /batches`: a list of people comes in, and is a batch when the answer goes out.

    body ──▶ a file without a name, in our home ──▶ loaded chunk by chunk (`scheduler.intake`) ──▶ 201
                 gone with the process                  `GET /batches/{id}` shows how far it is

Memory is bounded by a chunk. A body that is cut leaves nothing; of a load that dies with the process the leader removes what is
there. Whoever then asks again with the same Idempotency-Key gets the same batch, loaded anew.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import uuid_utils.compat
from anyio import CapacityLimiter, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Form, Header, Request, Response, UploadFile
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import Conflict, Unavailable
from scheduler import intake
from scheduler.api.forms import check_utf8
from scheduler.api.parts import Asking, Parts, Using
from scheduler.api.problems import answers, as_sent
from scheduler.fields import first_problem
from scheduler.idempotency import Asked, thing_for
from scheduler.intake import MOST_CALLS
from scheduler.keys import Key
from scheduler.loads import was_loaded
from scheduler.retry_config import RetryConfig

AT_ONCE = 4  # a load is work for the processor, and holds one of the connections
_MOST_FIELDS = 1000
_LONGEST_FIELD = 16_384  # bytes

_loads: RunVar[CapacityLimiter] = RunVar("loads")


def keep_uploads_in(home: Path) -> None:
    """Bodies that come in are kept there, for the whole process: /tmp may be memory.

    The files have no names, so that nothing is left of a process that is killed.
    """
    directory = home / "uploads"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.tempdir = str(directory)


class _BoundedForm(APIRoute):
    """Reads the form before the framework does, which would take a thousand files of it, each with memory of its own."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read_and_handle(request: Request) -> Response:
            check_utf8(request.headers.get("content-type", ""))
            with _disk():
                await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD)
            return await handle(request)

        return read_and_handle


router = APIRouter(prefix="/batches", tags=["batches"], route_class=_BoundedForm)


class NewBatch(BaseModel):
    """A list of people to be called."""

    model_config = ConfigDict(extra="forbid")

    agent_id: UUID = Field(description="What talks to them.")
    file: UploadFile = Field(
        description="CSV with a header row: `phone_number` (or `contact_number`, `phone`, `to`), `name`;"
        " every other column is a variable for the agent."
    )
    from_phone_numbers: list[str] = Field(
        [], description="Numbers of yours, registered on trunks; several take turns.", examples=[["+12025550100"]]
    )
    from_phone_number: str | None = Field(None, description="One more of these.", examples=["+12025550100"])
    retry_config: str | None = Field(
        None,
        description="JSON in the form of a call's `retry_config`. Kept and shown; nothing is retried by it yet.",
        examples=['{"enabled": true, "max_retries": 2}'],
    )
    webhook_url: str | None = Field(None, description="Instead of its agent's.", examples=["https://example.com/calls"])
    name: str | None = Field(None, description="No two batches have the same; the batch's id where it is left out.")
    max_concurrent_calls: int | None = Field(
        None, ge=1, le=MOST_CALLS, description="At most so many calls of it at once; its trunks' limits hold anyway."
    )


class BatchCreated(BaseModel):
    """It is ready: nothing is called before it is started."""

    model_config = ConfigDict(extra="forbid")

    batch_id: UUID
    state: Literal["created"] = "created"


@router.post("", status_code=201, responses=answers(400, 409, 422))
async def create(
    form: Annotated[NewBatch, Form(media_type="multipart/form-data")],
    using: Using,
    asking: Asking,
    idempotency_key: Annotated[
        str | None, Header(description="The same key, form and file, within a day: the same answer, and one batch.")
    ] = None,
) -> BatchCreated:
    """Loads a list of people as a new batch, and answers when all of it is stored.

    A bad row is kept apart with its reason (`GET /batches/{id}/rejected`), and never stops the good ones. While a long
    list is loaded, `GET /batches` shows how far it is. 409 with `Retry-After`: the same request is still being worked on.
    """
    limiter = _loads.get(None)
    if limiter is None:
        _loads.set(limiter := CapacityLimiter(AT_ONCE))
    return await to_thread.run_sync(partial(_load, form, using, asking, idempotency_key), limiter=limiter)


def _load(form: NewBatch, using: Parts, asking: Key, key: str | None) -> BatchCreated:
    retry_config = _retry_config(form.retry_config)
    with _disk():
        form.file.file.rollover()  # type: ignore[attr-defined]  # it has a descriptor from then on
        form.file.file.seek(0)
    descriptor = form.file.file.fileno()
    batch_id: UUID = uuid_utils.compat.uuid7()
    if key is not None:
        body = {**form.model_dump(mode="json", exclude={"file"}), "file": _sha256(descriptor)}
        asked = Asked.of(asking.id, key, "POST /batches", body)
        with using.transaction() as connection:
            batch_id = thing_for(connection, asked, batch_id)
            if was_loaded(connection, batch_id):
                return BatchCreated(batch_id=batch_id)
    one_more = [form.from_phone_number] if form.from_phone_number is not None else []
    try:
        with as_sent({"from": "from_phone_numbers"}):
            intake.upload(
                using.engine,
                descriptor,
                name=form.name if form.name is not None else str(batch_id),
                agent=form.agent_id,
                from_numbers=[*form.from_phone_numbers, *one_more],
                max_concurrent_calls=form.max_concurrent_calls,
                webhook_url=form.webhook_url,
                retry_config=retry_config,
                file_name=form.file.filename or "",
                campaign_id=batch_id,
            )
    except Conflict:
        with using.transaction() as connection:
            if not was_loaded(connection, batch_id):  # by the same request a moment ago
                raise
    return BatchCreated(batch_id=batch_id)


def _retry_config(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        return RetryConfig.model_validate_json(text).model_dump()
    except ValidationError as error:
        raise first_problem(error, "retry_config") from error


def _sha256(descriptor: int) -> str:
    with io.FileIO(descriptor, closefd=False) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    os.lseek(descriptor, 0, os.SEEK_SET)
    return found


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the file cannot be stored: {error.strerror}; nothing was written") from error
