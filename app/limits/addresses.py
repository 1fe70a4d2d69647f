"""Who sends a request: the address of the client, told by the connection or by proxies that the operator trusts."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from starlette.types import Scope

from models.errors import RequestError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED = (
    *(b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port", b"forwarded"),
    b"x-gradio-server",
)
SCOPE_KEY = "minivlm.asker"  # where a request's scope says who it is from, as an Asker
UNKNOWN = "unknown"  # a connection without an address, as of a Unix socket


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Addresses and networks of proxies, as `10.0.0.1` or `10.0.0.0/8`. Raises RequestError for anything else."""
    try:
        return tuple(ipaddress.ip_network(text.strip(), strict=False) for text in texts if text.strip())
    except ValueError as error:
        raise RequestError(
            f"--trusted-proxy: {error}; write addresses or networks, as 10.0.0.1 or 10.0.0.0/8."
        ) from None


_LOOPBACK = parse_networks(("127.0.0.0/8", "::1"))


def header(scope: Scope, name: bytes) -> str | None:
    """The value of a header, the last one where it is repeated; None where it is missing."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[-1].decode("latin-1").strip() if found else None


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether the address belongs to one of the networks."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks if network.version == parsed.version)


def peer_of(scope: Scope) -> str:
    """The address at the other end of the connection."""
    client = scope.get("client")
    return str(client[0]) if client else UNKNOWN


def resolve(scope: Scope, trusted: Sequence[Network], tunnel_host: str | None = None) -> str:
    """The client of a request; its scope is rewritten so that nothing behind believes forged headers.

    From a trusted proxy, `X-Forwarded-For` is read from its end, where that proxy wrote, over further trusted proxies.
    The tunnel of a share link connects from this machine and is known by the Host that it asks for. From anybody else
    all `X-Forwarded-…` headers are removed.
    """
    peer = peer_of(scope)
    through_tunnel = tunnel_host is not None and (header(scope, b"host") or "").lower() == tunnel_host
    if not (is_in(peer, trusted) or (through_tunnel and is_in(peer, _LOOPBACK))):
        scope["headers"] = [item for item in scope["headers"] if item[0] not in FORWARDED]
        return client_of(peer)
    client = peer
    for hop in reversed((header(scope, b"x-forwarded-for") or "").split(",")):
        address = _address(hop)
        if address is None:
            break
        client = address
        if not is_in(address, trusted):
            break
    if header(scope, b"x-forwarded-proto") in ("http", "https"):
        scope["scheme"] = header(scope, b"x-forwarded-proto")
    scope["client"] = (client, 0)
    return client_of(client)


def client_of(address: str) -> str:
    """What budgets count by: an IPv4 address, or the /64 network of an IPv6 one, which is one household's."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def guesser_of(client: str) -> str:
    """What passwords and keys are counted by: of an IPv6 client the /48 network, as anybody can have that with its
    65,536 smaller ones."""
    network = ipaddress.ip_network(client) if "/" in client else None
    return str(network.supernet(new_prefix=48)) if isinstance(network, ipaddress.IPv6Network) else client


def _address(hop: str) -> str | None:
    text = hop.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None
