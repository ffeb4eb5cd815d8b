"""What the local servers have in common that speak the interfaces of hubs: repositories, objects, a server's thread."""

from __future__ import annotations

import hashlib
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlparse

REPOSITORY = r"([^/]+/[^/]+)"


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".png"))


def make_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """A certificate for a host, signed by itself, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={host}"]
    words += ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(words, check=True, capture_output=True)
    return certificate, key


class LocalHub:
    """``repositories``: for each id its ``files``, and what it was made with; ``requests``: what was asked for.

    ``failures``: answers for the next commits instead of taking them. ``corrupts``: a name whose content is damaged.
    """

    token = "thetokenofatest"

    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[int] = []
        self.corrupts: str | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, body: Any = None, **headers: str) -> None:
                content = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            def handle_any(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                address = urlparse(self.path)
                path = unquote(address.path)
                hub.requests.append((self.command, path))
                if self.command != "PUT" and hub.is_closed(path) and hub.token_of(self) != hub.token:
                    self.answer(401, {"error": "Invalid username or password."})
                    return
                hub.handle(self, path, dict(parse_qsl(address.query, keep_blank_values=True)), content)

            do_GET = do_POST = do_PUT = do_HEAD = handle_any

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def is_closed(self, path: str) -> bool:
        """Whether a path is for those alone who have the token."""
        return True

    @staticmethod
    def token_of(request: Any) -> str:
        return str(request.headers.get("Authorization", "")).removeprefix("Bearer ")

    def handle(self, request: Any, path: str, query: dict[str, str], content: bytes) -> None:
        raise NotImplementedError

    def damage(self, files: dict[str, bytes]) -> None:
        if self.corrupts in files:
            files[self.corrupts] = files[self.corrupts][:-1] + b"?"
