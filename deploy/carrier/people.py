"""Recipients who do not exist: fictional numbers, as many as wanted, whose last two digits say what will happen."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from itertools import cycle

from deploy.carrier.numbers import fictional_number
from models.errors import Invalid
from scheduler.phone_numbers import e164


@cache
def area_codes() -> tuple[int, ...]:
    """The area codes for which libphonenumber takes the fictional numbers for valid."""

    def valid(area_code: int) -> bool:
        try:
            e164(fictional_number(area_code, "00"))
        except Invalid:
            return False
        return True

    return tuple(code for code in range(201, 990) if valid(code))


def numbers(wanted: Mapping[str, int], *, skip: int = 0) -> list[str]:
    """So many numbers of each pair of digits, one of each in turn; another `skip` gives other people."""
    queues = {digits: iter(area_codes()[skip : skip + count]) for digits, count in wanted.items()}
    left = dict(wanted)
    found: list[str] = []
    for digits in cycle(wanted):
        if not any(left.values()):
            break
        if left[digits]:
            left[digits] -= 1
            found.append(fictional_number(next(queues[digits]), digits))
    return found
