"""Run a module where the local Modelers server's name leads to this machine, and trying again takes no time."""

import runpy
import socket
import sys

from modelers_server import HOST

from mindone_ddpm.output import hub

look_up = socket.getaddrinfo


def at_home(host, *rest, **options):
    return look_up("127.0.0.1" if host == HOST else host, *rest, **options)


socket.getaddrinfo = at_home
hub.RETRY_DELAYS_S = (0.0, 0.0, 0.0)
sys.argv[0] = sys.argv.pop(1)
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
