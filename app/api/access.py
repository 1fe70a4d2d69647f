"""Who may ask: keys, the page's login, and which web pages of others."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from fastapi import Request

from app.api.openai.api_errors import ApiError


class Access:
    """`keys`: any of them opens everything; without keys everything is open. `origins`: pages that may ask, or "*".

    `is_logged_in` says whether a request carries the cookie of the page's login.
    """

    def __init__(
        self,
        keys: Iterable[str] = (),
        origins: Iterable[str] = (),
        is_logged_in: Callable[[Request], bool] = lambda _: False,
    ) -> None:
        self._keys = tuple(key.encode() for key in keys)
        self._origins = frozenset(origin.rstrip("/").lower() for origin in origins)
        self._is_logged_in = is_logged_in

    def check(self, request: Request) -> None:
        """Raises ApiError: 401 without a key, 403 for a page of another site."""
        origin = request.headers.get("origin", "")
        if origin and not self.allows(origin) and not is_own(origin, request):
            raise ApiError(
                403,
                f"Pages of {origin} may not ask this server; start it with --allow-origin {origin} if they should.",
                code="origin_not_allowed",
            )
        if not self._keys or any(self._is_key(given) for given in _keys_in(request)):
            return
        # The cookie comes along whoever makes a browser send a request, so it opens only what changes nothing.
        if request.method in ("GET", "HEAD") and self._is_logged_in(request):
            return
        raise ApiError(
            401,
            "A key is needed: send it as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
        )

    def allows(self, origin: str) -> bool:
        """Whether pages of this origin may ask."""
        return "*" in self._origins or origin.lower() in self._origins

    def _is_key(self, given: bytes) -> bool:
        return any([hmac.compare_digest(given, key) for key in self._keys])


def is_own(origin: str, request: Request) -> bool:
    """Whether a page of this very server asks."""
    return urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()


def _keys_in(request: Request) -> Iterable[bytes]:
    """Every key that the request carries, wherever clients put theirs; of a name and a password both together."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        yield value.strip().encode("latin-1")
    elif scheme.lower() == "basic":
        try:
            pair = base64.b64decode(value, validate=True)
        except binascii.Error:
            return
        yield pair
        yield pair.partition(b":")[2]
    for name in ("x-api-key", "x-moondream-auth"):
        if name in request.headers:
            yield request.headers[name].encode("latin-1")
