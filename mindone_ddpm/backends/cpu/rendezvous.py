"""Ranks on CPUs wait for each other over sockets, without a time limit, before each collective.

MindSpore's own collectives on a CPU give up after 30 s ("Launch kernel failed, name: AllReduce"), and one rank may well
compile, save or evaluate for longer.
"""

from __future__ import annotations

import secrets
import selectors
import socket
import time
from collections.abc import Callable, Sequence

from mindone_ddpm.common.errors import UserError

KEY_BYTES = 16
# How long a rank leaves it to the launcher to report which rank has failed, before it does so itself.
LAUNCHER_S = 10.0


class RankLostError(UserError):
    """Another rank has ended; the message is one line."""


class SocketRendezvous:
    """Connections between the main rank and all others.

    Args:
        host: an address of the main rank's machine.
        broadcast: gives every rank the main rank's list of integers below 2^24; used once, for port and key.
    """

    def __init__(self, rank: int, world_size: int, host: str, broadcast: Callable[[list[int]], Sequence[float]]):
        self.rank, self.world_size = rank, world_size
        self.peers: dict[int, socket.socket] = {}
        if rank == 0:
            server = socket.create_server((host, 0))
            key = secrets.token_bytes(KEY_BYTES)
            broadcast([server.getsockname()[1], *key])
            with server:
                while len(self.peers) < world_size - 1:
                    self._accept(server, key)
        else:
            port, *key_values = (int(value) for value in broadcast([0] * (1 + KEY_BYTES)))
            self.peers[0] = socket.create_connection((host, port))
            self.peers[0].sendall(bytes(key_values) + rank.to_bytes(4, "big"))
        for peer in self.peers.values():
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _accept(self, server: socket.socket, key: bytes) -> None:
        connection, _ = server.accept()
        connection.settimeout(10.0)
        try:
            greeting = connection.recv(KEY_BYTES + 4, socket.MSG_WAITALL)
        except OSError:
            greeting = b""
        if len(greeting) == KEY_BYTES + 4 and secrets.compare_digest(greeting[:KEY_BYTES], key):
            connection.settimeout(None)
            self.peers[int.from_bytes(greeting[KEY_BYTES:], "big")] = connection
        else:
            connection.close()  # not a rank of this run

    def wait(self) -> None:
        """Return when every rank has called this.

        Raises:
            RankLostError: one has ended instead.
        """
        if self.rank == 0:
            with selectors.DefaultSelector() as selector:  # so that a rank that has ended is noticed whichever is late
                for rank, peer in self.peers.items():
                    selector.register(peer, selectors.EVENT_READ, rank)
                while selector.get_map():
                    for ready, _ in selector.select():
                        self._receive(ready.data)
                        selector.unregister(ready.fileobj)
            for rank in self.peers:
                self._send(rank)
        else:
            self._send(0)
            self._receive(0)

    def _send(self, rank: int) -> None:
        try:
            self.peers[rank].sendall(b".")
        except OSError as error:
            self._report_lost(rank, error)

    def _receive(self, rank: int) -> None:
        try:
            answer = self.peers[rank].recv(1)
        except OSError as error:
            self._report_lost(rank, error)
        else:
            if not answer:
                self._report_lost(rank, None)

    def _report_lost(self, rank: int, error: OSError | None) -> None:
        time.sleep(LAUNCHER_S)
        raise RankLostError(f"rank {rank} has ended; see its log") from error
