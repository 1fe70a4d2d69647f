"""Which names this server answers to, and which pages may send it something."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import Scope

from app.limits.addresses import header
from app.limits.refusal import Refused

_HOST = re.compile(r"\[([\w:.%]+)\](?::\d{0,5})?|([\w.*-]+)(?::\d{0,5})?|([\da-f:.]+)")
LOCALHOST = ("localhost", "localhost.localdomain", "ip6-localhost")


class Origins:
    """The allow-list of host names, and the check of Host, Origin and Sec-Fetch-Site against it.

    A name in Host that is not ours means that someone's DNS points at this machine: a page of theirs would count as the
    same origin. An address can't be pointed anywhere, so any address is allowed.
    """

    def __init__(self, names: Iterable[str]) -> None:
        own = {socket.gethostname().lower(), socket.getfqdn().lower(), *LOCALHOST}
        self._names = own | {_without_port(name.lower()) for name in names}

    def allow(self, name: str) -> None:
        """Answer to one more name, as that of a share link."""
        self._names.add(_without_port(name.lower()))

    def is_own(self, host: str) -> bool:
        """Whether a Host header, with or without port, names this server."""
        name = _without_port(host.strip().lower())
        if name in self._names or any(own.startswith("*.") and name.endswith(own[1:]) for own in self._names):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def check(self, scope: Scope, *, changes_something: bool) -> None:
        """Raise Refused for a foreign Host, and for what another site's page makes a browser send.

        `changes_something` is false for pages and files that any site may link to.
        """
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        host = hosts[0].decode("latin-1") if len(hosts) == 1 else ""
        forwarded = (header(scope, b"x-forwarded-host") or host).split(",")[0].strip()  # only trusted proxies' is left
        if not (self.is_own(host) and self.is_own(forwarded)):
            raise Refused(421, "This server does not go by that name; its operator can add it with --allow-host.")
        if not changes_something:
            return
        origin = header(scope, b"origin")
        if origin is not None and _host_of(origin) not in (host.lower(), forwarded.lower()):
            raise Refused(403, "Pages of other sites may not use this server.")
        if origin is None and header(scope, b"sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "Pages of other sites may not use this server.")


def _host_of(origin: str) -> str | None:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    return parts.netloc.lower() if parts.scheme in ("http", "https") else None


def _without_port(host: str) -> str:
    """The name or address in a Host header; nothing where it has more than those and a port."""
    found = _HOST.fullmatch(host)
    return next(filter(None, found.groups()), "") if found else ""
