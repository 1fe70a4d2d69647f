"""Whether a server answers, for a container's health check: `python -m app.health http://127.0.0.1:7860/health`.

Exit status 0 also for 401: a server that asks for its key is there.
"""

from __future__ import annotations

import sys
import urllib.error
import urllib.request

_SECONDS = 4


def is_healthy(url: str) -> bool:
    """Whether the address answers, and not with an error of the server's."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=_SECONDS) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if is_healthy(sys.argv[1]) else 1)
