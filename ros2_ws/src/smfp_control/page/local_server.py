# SPDX-License-Identifier: Apache-2.0
"""viser's server, closed to everybody but the browsers of this computer."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Iterator

import viser
import websockets.asyncio.server

HOST = "127.0.0.1"
# A browser lets any web site open a connection to this computer, and tells the site by this header.
# Who is no browser sends none. Any port: that of a tunnel need not be the server's.
_ORIGINS = (re.compile(r"http://(127\.0\.0\.1|localhost)(:\d+)?"), None)


class LocalServer(viser.ViserServer):
    """A page that only people at this computer can open, and no web site can reach behind them.

    Args:
        port: wanted; the next free one is taken if it is in use.
        label: name of the page.
    """

    def __init__(self, port: int, label: str) -> None:
        with _quiet(), _guarded():
            super().__init__(host=HOST, port=port, label=label, verbose=False)

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        return f"http://{HOST}:{self.get_port()}"

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse: a page that moves a robot is not put on the internet."""
        return None

    def stop(self) -> None:
        """End the server and close every tab's connection."""
        with _quiet():
            super().stop()


@contextlib.contextmanager
def _guarded() -> Iterator[None]:
    # viser has no setting for this; the server is started while its constructor runs.
    module = websockets.asyncio.server
    serve = module.serve
    module.serve = functools.partial(serve, origins=_ORIGINS)  # type: ignore[misc,assignment]
    try:
        yield
    finally:
        module.serve = serve  # type: ignore[misc]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """viser announces itself in its own words; the address is printed once, by the page."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
