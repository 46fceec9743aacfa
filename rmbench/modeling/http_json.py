"""JSON over HTTP with retries: what a server of rewards is asked with."""

from __future__ import annotations

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from rmbench.errors import UserError

logger = logging.getLogger(__name__)

FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0  # seconds between tries; each is twice the one before
BUSY = {408, 425, 429, 500, 502, 503, 504}  # worth another try


class NotThere(Exception):
    """The server has no such path (404), or does not allow the method on it (405)."""


@dataclass(frozen=True)
class Client:
    """Sends JSON requests to one server, with repeated attempts.

    Args:
        base: scheme, host and port.
        attempts: tries of a request.
        timeout: seconds until a try is given up.
    """

    base: str
    attempts: int
    timeout: float

    def ask(self, path: str, body: object = None) -> Any:
        """The server's JSON answer: POST with `body`, GET without one.

        Raises:
            NotThere: no such path.
            UserError: the server refuses the request, or gives no answer after all tries.
        """
        url, wait, reason = f"{self.base}{path}", FIRST_WAIT, ""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
        for attempt in range(self.attempts):
            if attempt:
                logger.warning("%s: %s; again in %g s (%d of %d)", url, reason, wait, attempt + 1, self.attempts)
                time.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                said = error.read().decode(errors="replace").strip()
                if error.code in (404, 405):
                    raise NotThere(f"{url}: {error.code}") from error
                if error.code not in BUSY:
                    raise UserError(f"{url} refuses the request ({error.code}): {said[:300]}") from error
                reason = f"{error.code} {said[:100]}"
            except (OSError, http.client.HTTPException, ValueError) as error:  # no connection, cut off, no JSON
                reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise UserError(
            f"{url}: no answer after {self.attempts} tries ({reason}). Is the server running? Scores so far are kept:"
            " run the same command to continue."
        )
