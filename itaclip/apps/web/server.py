"""Run the server in a thread until a signal stops it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from itaclip.apps.web.address import address_of, check_address, is_loopback, stop_signal, wait_until
from itaclip.apps.web.job_queue import JobQueue
from itaclip.apps.web.limits import Limits

_LOG = logging.getLogger(__name__)

_SECONDS_TO_SEND = 10  # that clients have to fetch their answers once the server stops


def serve(
    make_app: Callable[[JobQueue], ASGIApp],
    limits: Limits,
    host: str,
    port: int,
    root_path: str | None = None,
    guarded: bool = False,
    ready: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM; finish the running image, answer waiting requests with status 503.

    Args:
        make_app: makes the application from the queue that its requests wait in.
        limits: of every request.
        host: name or address to listen on.
        port: to listen on, 1 to 65535.
        root_path: the path under which a reverse proxy shows the server, such as ``/segment``.
        guarded: whether the application asks for a token.
        ready: called with the address once the server answers.

    Raises:
        ItaclipError: the server cannot listen on the address.
    """
    if not is_loopback(host) and not guarded:
        _LOG.warning("%s: anyone who can reach this machine can use the server; it asks for no token.", host)
    check_address(host, port)
    stopped = stop_signal()
    queue = JobQueue(limits.queue)
    server = uvicorn.Server(
        uvicorn.Config(
            make_app(queue), host=host, port=port, root_path=root_path or "", log_config=None, access_log=False,
            server_header=False, lifespan="off", timeout_graceful_shutdown=_SECONDS_TO_SEND,
        )
    )  # fmt: skip
    thread = threading.Thread(target=server.run, name="itaclip-server")  # signals stay with the main thread
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.05)
        if server.started:
            ready(address_of(host, port))
            wait_until(stopped)
    finally:
        queue.close()
        server.should_exit = True
        thread.join()
