"""`POST /batches`: a list of people comes in, and is a batch when the answer goes out.

    body ──▶ a file without a name, in our home ──▶ loaded chunk by chunk (`scheduler.intake`) ──▶ 201
                 gone with the process                  `GET /batches/{id}` shows how far it is

Memory is bounded by a chunk, the disk by what uploads leave of it. A body that is cut leaves nothing. A load goes on when its
client has gone away: who asks again with the same Idempotency-Key is told of it. A load that takes longer than a process which is
asked to stop has left is ended with 503 and leaves nothing; of one that dies with its process the leader removes what is there,
and whoever then asks again with the same key gets the same batch, loaded anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import uuid_utils.compat
from anyio import CapacityLimiter, move_on_after, to_thread
from anyio.lowlevel import RunVar
from fastapi import APIRouter, Form, Header, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import Busy, Invalid, TrunklineError, Unavailable
from scheduler import intake
from scheduler.api.bodies import check_disk, check_utf8, once_each
from scheduler.api.parts import Asking, Parts, Using, repeated
from scheduler.api.problems import answers, as_sent
from scheduler.fields import first_problem
from scheduler.idempotency import Asked, known_thing
from scheduler.intake import MOST_CALLS, Progress
from scheduler.keys import Key
from scheduler.loads import was_loaded, was_refused
from scheduler.retry_config import RetryConfig

AT_ONCE = 4  # a load is work for the processor, and keeps one of the routes' threads, with its connection
_TURN_SECONDS = 300.0  # that a load waits for those before it: three, of lists of a million
_SEVERAL = frozenset({"from_phone_numbers"})  # fields that may be given more than once
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
                form = await request.form(max_files=1, max_fields=_MOST_FIELDS, max_part_size=_LONGEST_FIELD)
            given_twice = repeated(name for name, _ in form.multi_items() if name not in _SEVERAL)
            if given_twice:
                await form.close()
                raise RequestValidationError(
                    [{"type": "twice", "loc": ("body", name), "msg": "is given twice"} for name in given_twice]
                )
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
    loads = _loads.get(None)
    if loads is None:
        _loads.set(loads := CapacityLimiter(AT_ONCE))
    with move_on_after(_TURN_SECONDS) as waiting:
        await loads.acquire()
    if waiting.cancelled_caught:
        raise Unavailable("the lists that came before take long; nothing was written: try again in a moment")
    try:
        with _disk():
            form.file.file.rollover()  # type: ignore[attr-defined]  # it has a descriptor from then on
            # of the load's own: the request's ends with the request, and its number goes to the next file that is opened
            file = io.FileIO(os.dup(form.file.file.fileno()))
        return await to_thread.run_sync(partial(_load, form, file, using, asking, idempotency_key))
    finally:
        loads.release()


def _load(form: NewBatch, file: io.FileIO, using: Parts, asking: Key, key: str | None) -> BatchCreated:
    with file:
        file.seek(0)
        batch_id: UUID = uuid_utils.compat.uuid7()
        if key is None:
            _upload(form, file, using, batch_id, None)
            return BatchCreated(batch_id=batch_id)
        body = {**form.model_dump(mode="json", exclude={"file"}), "file": _sha256(file)}
        asked = Asked.of(asking.id, key, "POST /batches", body)
        with using.transaction() as connection:
            batch_id = known_thing(connection, asked) or batch_id
            if was_loaded(connection, batch_id):
                return BatchCreated(batch_id=batch_id)
        try:
            _upload(form, file, using, batch_id, asked)
        except TrunklineError as error:
            with using.transaction() as connection:
                known = known_thing(connection, asked)
                if known is not None and was_loaded(connection, known):  # by the same request a moment ago
                    return BatchCreated(batch_id=known)
                if not isinstance(error, Busy):
                    was_refused(connection, batch_id, asked)
            raise
        return BatchCreated(batch_id=batch_id)


def _upload(form: NewBatch, file: io.FileIO, using: Parts, batch_id: UUID, asked: Asked | None) -> None:
    def may_go_on(_: Progress) -> None:
        if using.ending.is_set():
            raise Unavailable("the API is being stopped; nothing was written: try again in a moment")
        check_disk()

    one_more = [form.from_phone_number] if form.from_phone_number is not None else []
    retry_config = _retry_config(form.retry_config)
    with as_sent({"from": "from_phone_numbers"}):
        intake.upload(
            using.engine,
            file.fileno(),
            name=form.name if form.name is not None else str(batch_id),
            agent=form.agent_id,
            from_numbers=[*form.from_phone_numbers, *one_more],
            max_concurrent_calls=form.max_concurrent_calls,
            webhook_url=form.webhook_url,
            retry_config=retry_config,
            file_name=form.file.filename or "",
            campaign_id=batch_id,
            asked=asked,
            progress=may_go_on,
        )


def _retry_config(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        found = RetryConfig.model_validate_json(text).model_dump()
        json.loads(text, object_pairs_hook=once_each)
    except ValidationError as error:
        raise first_problem(error, "retry_config") from error
    except ValueError as error:
        raise Invalid("retry_config", f"is not JSON that means one thing: {error}") from error
    return found


def _sha256(file: io.FileIO) -> str:
    found = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return found


@contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the file cannot be stored: {error.strerror}; nothing was written") from error
