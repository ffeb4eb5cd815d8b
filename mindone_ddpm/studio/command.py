"""The command ``studio``: checks what can be wrong, says where the page is, and serves it until it is stopped.

Read for every ``--help``: what it needs from the standard library is imported where it is used.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mindone_ddpm.common.errors import ConfigError

if TYPE_CHECKING:
    import socket

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7860
LEAST_TOKEN_CHARACTERS = 16


def add_arguments(parser: argparse.ArgumentParser, words: Sequence[str]) -> None:
    parser.usage = (parser.usage or "").replace("[options]", "[FOLDER] [options]")
    parser.add_argument("folder", metavar="FOLDER", nargs="?", default=".", help="of the runs (default: this folder)")
    parser.add_argument("--host", default=DEFAULT_HOST, help=f"address to listen on (default: {DEFAULT_HOST})")
    parser.add_argument(
        "--port", metavar="INT", type=int, default=DEFAULT_PORT, help=f"0: a free one (default: {DEFAULT_PORT})"
    )
    parser.add_argument(
        "--token",
        metavar="TEXT",
        help="who opens the page must know it; made where none is given and --host is not this machine alone",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        import uvicorn

        from mindone_ddpm.studio.app import make_app
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError(f"studio: {error.name} is not installed; run `pip install 'mindone-ddpm[studio]'`") from error

    token = token_of(arguments.host, arguments.token)
    app = make_app(Path(arguments.folder), token)
    listener = listen(arguments.host, arguments.port)
    port = listener.getsockname()[1]
    os.chdir(arguments.folder)  # paths in forms are relative to it, as in the commands that are started
    for line in welcome(Path.cwd(), arguments.host, port, token):
        print(line, flush=True)
    config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    print("the studio has ended; what it started goes on", flush=True)
    return 0


def token_of(host: str, given: str | None) -> str | None:
    """The token that is needed; None where the page is for this machine alone. Raises ConfigError."""
    import secrets

    if given is not None and len(given) < LEAST_TOKEN_CHARACTERS:
        raise ConfigError(f"--token: must have at least {LEAST_TOKEN_CHARACTERS} characters")
    return given if given is not None or is_loopback(host) else secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError: the address cannot be used."""
    import errno
    import socket

    if not 0 <= port <= 65535:
        raise ConfigError(f"--port {port}: must be between 0 and 65535")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host {host}: is no address of this machine") from error
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigError(f"--port {port}: is in use; give another, or 0 for a free one") from error
        if error.errno == errno.EACCES:
            raise ConfigError(f"--port {port}: needs rights that you lack; give one above 1023") from error
        raise ConfigError(f"--host {host}: is no address of this machine ({error.strerror})") from error
    return listener


def welcome(folder: Path, host: str, port: int, token: str | None) -> list[str]:
    import socket
    from urllib.parse import quote

    shown = socket.gethostname() if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{port}/" + (f"?token={quote(token)}" if token else "")
    lines = [f"{folder} is at {address}", "Ctrl-C ends the page; runs go on"]
    if token and not is_loopback(host):
        lines.append("the connection is not encrypted: on a network that others use, go through `ssh -L` instead")
    return lines
