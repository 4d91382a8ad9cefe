"""The API without the page."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from itaclip.web.address import address_of, check_address, is_loopback, stop_signal, wait_until
from itaclip.web.limits import Limits
from itaclip.web.line import Line

_LOG = logging.getLogger(__name__)

_SECONDS_TO_SEND = 10  # after the last image, for answers to be taken


def serve_alone(
    make_api: Callable[[Line], ASGIApp],
    limits: Limits,
    host: str,
    port: int,
    root_path: str | None = None,
    guarded: bool = False,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve an API until SIGINT or SIGTERM; what runs by then is finished, what waits gets status 503.

    Args:
        make_api: gives the API from the line in which its requests wait.
        limits: of every request.
        host: name or address to listen at.
        port: to listen at.
        root_path: where a reverse proxy shows the API, such as ``/segment``.
        guarded: whether the API asks for a token.
        ready: called with the API's address when it answers.

    Raises:
        ItaclipError: the address cannot be listened at.
    """
    if not is_loopback(host) and not guarded:
        _LOG.warning("%s: whoever reaches this machine can use the API; it asks for no token.", host)
    check_address(host, port)
    stopped = stop_signal()
    line = Line(limits.queue)
    server = uvicorn.Server(
        uvicorn.Config(
            make_api(line), host=host, port=port, root_path=root_path or "", log_config=None, access_log=False,
            server_header=False, lifespan="off", timeout_graceful_shutdown=_SECONDS_TO_SEND,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, name="itaclip-api")  # signals stay with this thread
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.05)
        if server.started:
            ready(address_of(host, port))
            wait_until(stopped)
    finally:
        line.close()
        server.should_exit = True
        thread.join()
