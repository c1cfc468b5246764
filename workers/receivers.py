"""How a webhook is posted to an address that somebody wrote down, without being led to one that nobody meant.

The name is resolved once and each of its addresses is looked at; the connection goes to one of those, whatever the name
resolves to a moment later, while TLS still proves the name. Redirects are not followed, proxies not asked, and of the answer
nothing is read but its status.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import anyio
import httpx
from anyio import to_thread

from models.webhooks import Failure

TRY_SECONDS = 10.0  #: from the name to the status
_CONNECT_SECONDS = 4.0  # so that there is time for another address
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NOBODYS = [
    ipaddress.ip_network(text)
    for text in (
        "2002::/16",  # an IPv4 address in disguise, and out of use (RFC 7526)
        "3fff::/20",  # documentation (RFC 9637), which ipaddress does not know yet
        "192.0.0.0/24",  # protocols' own (RFC 6890)
        "192.88.99.0/24",  # relays that are out of use (RFC 7526)
        "168.63.129.16/32",  # of a machine in Azure the host that it runs on
    )
]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
_GONE = 410
_HEADERS = {"User-Agent": f"trunkline/{version('trunkline')}", "Content-Type": "application/json"}


def trusted(ca_file: Path | None) -> ssl.SSLContext:
    """Who may vouch for a receiver: the well-known authorities, the machine's own, and those of `ca_file`."""
    context = httpx.create_ssl_context(trust_env=False)
    context.load_default_certs()
    if ca_file is not None:
        context.load_verify_locations(cafile=ca_file)
    return context


def is_public(text: str) -> bool:
    """Whether an IP address is one of the whole Internet's: not of this network, many at once or nobody."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        if (inner := _inner(address)) is not None:
            address = inner
        elif address not in _GLOBAL_UNICAST:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in _NOBODYS)


def _inner(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) % 2**32)
    return address.ipv4_mapped


async def post(
    url: str, headers: Mapping[str, str], body: bytes, *, context: ssl.SSLContext, to_private: bool
) -> Failure | None:
    """Returns why it was not taken, or None: a status of 2xx came in time."""
    try:
        with anyio.fail_after(TRY_SECONDS):
            return await _post(httpx.URL(url), {**_HEADERS, **headers}, body, context, to_private)
    except TimeoutError:
        return Failure(error=f"did not answer within {TRY_SECONDS:g} s")
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        return Failure(error="its address cannot be used")


async def _post(
    url: httpx.URL, headers: Mapping[str, str], body: bytes, context: ssl.SSLContext, to_private: bool
) -> Failure | None:
    name = _name(url)
    failure = Failure(error=f"the name {name} does not resolve")
    try:
        addresses = await _resolve(url)
    except (OSError, UnicodeError):
        return failure
    if not to_private and not all(map(is_public, addresses)):
        # which one is not told: whoever may name a receiver could ask so for any name of this network
        return Failure(error=f"{name} is at a private address: see TRUNKLINE_WEBHOOKS_TO_PRIVATE_ADDRESSES")
    for address in addresses:
        try:
            return _judge(await _status(url, address, headers, body, context))
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = Failure(error=f"could not be connected to{_untrusted(error)}")
        except httpx.TransportError as error:
            return Failure(error=f"broke off before it had answered ({type(error).__name__})")
    return failure


def _name(url: httpx.URL) -> str:
    """As it was written down: read as Unicode, `xn--strae-oqa.de` would be asked for as strasse.de (IDNA 2003), somebody else's."""
    return url.raw_host.decode("ascii")


async def _resolve(url: httpx.URL) -> list[str]:
    """The addresses as the machine knows them, in the order in which they are to be tried. Raises OSError and UnicodeError."""
    ask = partial(socket.getaddrinfo, _name(url), url.port or 443, type=socket.SOCK_STREAM)
    # a thread that hangs in it is left to itself: it ends with the resolver's own patience
    found = await to_thread.run_sync(ask, abandon_on_cancel=True)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def _status(
    url: httpx.URL, address: str, headers: Mapping[str, str], body: bytes, context: ssl.SSLContext
) -> int:
    # no connection is kept: the next name at the same address would be taken for proven
    limits = httpx.Limits(max_keepalive_connections=0)
    bounds = httpx.Timeout(TRY_SECONDS, connect=_CONNECT_SECONDS)
    async with httpx.AsyncHTTPTransport(verify=context, trust_env=False, limits=limits) as transport:
        request = httpx.Request(
            "POST",
            url.copy_with(host=address),
            headers={**headers, "Host": url.netloc.decode("ascii")},
            content=body,
            extensions={"sni_hostname": _name(url), "timeout": bounds.as_dict()},
        )
        response = await transport.handle_async_request(request)
        await response.aclose()
    return response.status_code


def _judge(status: int) -> Failure | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return Failure(error=f"redirected us ({status}), which is not followed")
    return Failure(error=f"answered {status}", is_gone=status == _GONE)


def _untrusted(error: BaseException | None) -> str:
    """What TLS found wrong, if that was it."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f": its certificate is not trusted ({error.verify_message})"
        error = error.__cause__ or error.__context__
    return ""
