"""A server that speaks Modelers' HTTP interface, as far as its client needs it to make, fill and read repositories.

The client takes addresses with https at Modelers' own hosts alone. So the server has a certificate for such a name, and
at_modelers.py runs the program where that name leads to this machine.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import yaml
from local_hub import REPOSITORY, LocalHub, blob_id, is_large, make_certificate, sha256

HOST = "local.modelers.cn"
COMMIT = "b" * 40
CREATED = "2026-01-01T00:00:00Z"


class ModelersServer(LocalHub):
    token = "om-thetokenofatest"

    def __init__(self, folder: Path) -> None:
        self.certificate, key = make_certificate(folder, HOST)
        super().__init__((self.certificate, key))
        self.url = f"https://{HOST}:{self.server.server_port}"

    def is_closed(self, path: str) -> bool:
        return path != "/api/v1/file/license_check"

    def handle(self, request: Any, path: str, query: dict[str, str], content: bytes) -> None:
        if path == "/api/v1/user":
            request.answer(200, {"data": {"account": "someone", "email": "a@b.c"}})
        elif path == "/api/v1/model":
            asked = json.loads(content)
            name = f"{asked['owner']}/{asked['name']}"
            if name in self.repositories:
                request.answer(400, {"code": "duplicate_creating"})
                return
            self.repositories[name] = {"made_with": asked, "files": {}}
            request.answer(201, {"data": name})
        elif match := re.fullmatch(rf"/api/v1/(model|dataset)/{REPOSITORY}", path):
            self.about(request, match[2])
        elif path == "/api/v1/file/license_check":
            head = yaml.safe_load(base64.b64decode(json.loads(content)["content"]).decode().split("---")[1])
            request.answer(200, {"data": "ok" if head.get("license") else None})
        elif re.fullmatch(rf"/api/v1/file/{REPOSITORY}/pre_upload", path):
            asked = json.loads(content)["files"]
            types = [{"path": item["path"], "type": "lfs" if is_large(item["path"]) else "regular"} for item in asked]
            request.answer(200, {"data": {"files": types}})
        elif re.fullmatch(rf"/api/v1/file/{REPOSITORY}/info/lfs/objects/batch", path):
            objects = json.loads(content)["objects"]
            for item in objects:
                part = {"index": 1, "href": f"{self.url}/objects/{item['oid']}", "headers": {}, "size": item["size"]}
                item["actions"] = {"parts": [part]}
            request.answer(200, {"data": {"objects": objects}})
        elif match := re.fullmatch(r"/objects/(\w+)", path):
            self.objects[match[1]] = content
            request.answer(200, ETag='"x"')
        elif match := re.fullmatch(rf"/api/v1/file/{REPOSITORY}/upload", path):
            self.commit(request, match[1], json.loads(content))
        elif match := re.fullmatch(rf"/api/v1/file/{REPOSITORY}/main/media/(.+)", path):
            request.answer(200, self.repositories[match[1]]["files"][match[2]])
        elif match := re.fullmatch(rf"/api/v1/file/{REPOSITORY}/info", path):
            found = self.repositories[match[1]]["files"].get(query["path"])
            if found is None:
                request.answer(404, {"code": "branch_or_path_not_found"})
            else:
                request.answer(200, {"data": {**self.entry(query["path"], found), "branch_last_commit": COMMIT}})
        elif match := re.fullmatch(rf"/api/v1/file/{REPOSITORY}", path):
            self.tree(request, match[1], query["path"])
        else:
            request.answer(404, {"code": f"the test's server knows no {request.command} {path}"})

    def about(self, request: Any, name: str) -> None:
        if name not in self.repositories:
            request.answer(404, {"code": "resource_not_found"})
            return
        made_with = self.repositories[name].get("made_with", {})
        request.answer(200, {"data": {"id": "1", "name": name, "visibility": made_with.get("visibility", "public")}})

    def tree(self, request: Any, name: str, folder: str) -> None:
        """What lies in a folder: files, and folders, which the client asks for in turn."""
        files = self.repositories[name]["files"]
        start = f"{folder}/" if folder else ""
        inside = {path: path[len(start) :] for path in files if path.startswith(start)}
        listed = [self.entry(path, files[path]) for path, rest in inside.items() if "/" not in rest]
        folders = sorted({rest.split("/")[0] for rest in inside.values() if "/" in rest})
        listed += [{"type": "dir", "path": start + each} for each in folders]
        last = {"commit": {"commit_sha": COMMIT, "created": CREATED, "message": "x"}}
        request.answer(200, {"data": {"tree": listed, "last_commit": last}})

    def commit(self, request: Any, name: str, asked: dict[str, Any]) -> None:
        if self.failures:
            request.answer(self.failures.pop(0), {"code": "not now"})
            return
        files = self.repositories[name]["files"]
        for item in asked["files"]:
            if item["operation"] == "delete":
                del files[item["path"]]
                continue
            content = base64.b64decode(item["content"])
            pointer = re.fullmatch(rb"version https://git-lfs\S+\noid sha256:(\w+)\nsize \d+", content)
            files[item["path"]] = self.objects[pointer[1].decode()] if pointer is not None else content
        self.damage(files)
        request.answer(201, {"data": [{"commit_url": "x", "commit_oid": COMMIT}]})

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        etag = sha256(content) if is_large(name) else blob_id(content)
        return {"type": "file", "path": name, "size": len(content), "etag": etag, "is_lfs": is_large(name)}
