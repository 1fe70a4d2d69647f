"""What every answer says to the browser about what it may do with it."""

from __future__ import annotations

from starlette.types import Message, Send

from app.limits.route_kinds import Kind

SHARED_FRONTEND = "https://gradio.s3-us-west-2.amazonaws.com"  # gradio's page of a share link loads its script there

# What gradio's page needs: scripts and styles in the HTML itself, functions made from text (its gr.HTML), workers and
# pictures from blobs. Everything comes from this server; nothing can be sent elsewhere.
_PAGE = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:{more}; "
    "style-src 'self' 'unsafe-inline'{more}; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:{more}; connect-src 'self' data: blob:{more}; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors {ancestors}"
)
_FILE = "default-src 'none'; style-src 'unsafe-inline'; sandbox; frame-ancestors 'none'"  # an SVG or HTML runs nothing


def security_headers(kind: Kind | None, *, is_shared: bool, ancestors: str) -> list[tuple[bytes, bytes]]:
    """The headers of an answer; `ancestors` are the sites that may show the page in a frame."""
    more = f" {SHARED_FRONTEND}" if is_shared else ""
    policy = _FILE if kind is Kind.FILE else _PAGE.format(more=more, ancestors=ancestors)
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-resource-policy": "same-origin",
        "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    }
    if ancestors in ("'self'", "'none'"):
        headers["x-frame-options"] = "SAMEORIGIN" if ancestors == "'self'" else "DENY"
        headers["cross-origin-opener-policy"] = "same-origin"
    if kind is not Kind.STATIC:  # or a proxy on the way might give one visitor's to another
        headers["cache-control"] = "private" if kind is Kind.FILE else "no-store"
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def with_headers(send: Send, headers: list[tuple[bytes, bytes]], *, foreign: bool, has_tls: bool) -> Send:
    """A `send` that adds them to the answer; with `foreign`, what gradio grants to other origins is taken away.

    Of the two cookies of a login, one for TLS alone and one for any connection, the second is left out with `has_tls`.
    Other sites' pages bring none of them along, unless they may show this one.
    """
    names = {name for name, _ in headers} - {b"set-cookie"}
    is_framed = not any(name == b"x-frame-options" for name, _ in headers)

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = message.get("headers", [])
            kept = [(key, value) for key, value in given if key.lower() not in names]
            if foreign:
                kept = [(key, value) for key, value in kept if not key.lower().startswith(b"access-control-")]
            if has_tls:
                kept = [(key, value) for key, value in kept if not value.startswith(b"access-token-unsecure-")]
            if not is_framed:
                kept = [(key, value.replace(b"; SameSite=none", b"; SameSite=lax")) for key, value in kept]
            message["headers"] = [*kept, *headers]
        await send(message)

    return send_with_headers
