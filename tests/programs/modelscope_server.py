"""A server that speaks ModelScope's HTTP interface, as far as its client needs it to make, fill and read one."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from local_hub import REPOSITORY, LocalHub, sha256

KINDS = {"models": "model", "datasets": "dataset"}


class ModelScopeServer(LocalHub):
    token = "ms-thetokenofatest"

    def handle(self, request: Any, path: str, query: dict[str, str], content: bytes) -> None:
        if path == "/openapi/v1/users/me":
            request.answer(200, {"success": True, "data": {"name": "someone", "email": "a@b.c"}})
        elif path == "/api/v1/models":
            asked = json.loads(content)
            name = f"{asked['Path']}/{asked['Name']}"
            if name in self.repositories:
                request.answer(400, {"Code": 10010205001, "Message": "the model already exists"})
                return
            self.repositories[name] = {"made_with": asked, "files": {}}
            request.answer(200, {"Code": 200, "Data": {"Id": 1, **asked}})
        elif match := re.fullmatch(rf"/openapi/v1/models/{REPOSITORY}", path):
            self.about(request, match[1])
        elif re.fullmatch(rf"/api/v1/repos/models/{REPOSITORY}/info/lfs/objects/batch", path):
            objects = json.loads(content)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.url}/objects/{item['oid']}"}}
            request.answer(200, {"Code": 200, "Data": {"objects": objects}})
        elif match := re.fullmatch(r"/objects/(\w+)", path):
            self.objects[match[1]] = content
            request.answer(200)
        elif match := re.fullmatch(rf"/api/v1/repos/models/{REPOSITORY}/commit/master", path):
            self.commit(request, match[1], json.loads(content))
        elif match := re.fullmatch(rf"/api/v1/(models|datasets)/{REPOSITORY}/repo/(files|tree)", path):
            files = self.repositories.get(match[2], {"files": {}})["files"]
            request.answer(200, {"Code": 200, "Data": {"Files": [self.entry(*item) for item in files.items()]}})
        elif match := re.fullmatch(rf"/api/v1/(models|datasets)/{REPOSITORY}/repo", path):
            found = self.repositories.get(match[2], {"files": {}})["files"].get(query["FilePath"])
            request.answer(200 if found is not None else 404, found)
        elif match := re.fullmatch(rf"/api/v1/models/{REPOSITORY}", path):
            request.answer(404, {"Code": 404, "Message": "no such model"})
        elif path == "/api/v1/repos/internalAccelerationInfo":
            request.answer(200, {"Code": 200, "Data": {}})
        else:
            request.answer(404, {"Message": f"the test's server knows no {request.command} {path}"})

    def about(self, request: Any, name: str) -> None:
        if name not in self.repositories:
            request.answer(404, {"success": False, "code": "NotFound", "message": "no such model"})
            return
        private = self.repositories[name]["made_with"]["Visibility"] == 1
        request.answer(200, {"success": True, "data": {"id": name, "private": private}})

    def commit(self, request: Any, name: str, asked: dict[str, Any]) -> None:
        if self.failures:
            request.answer(self.failures.pop(0), {"Code": 1, "Message": "not now"})
            return
        files = self.repositories[name]["files"]
        for item in asked["actions"]:
            if item["action"] == "delete":
                del files[item["path"]]
            elif item["type"] == "lfs":
                files[item["path"]] = self.objects[item["sha256"]]
            else:
                files[item["path"]] = base64.b64decode(item["content"])
        self.damage(files)
        request.answer(200, {"Code": 200, "Success": True, "Data": {"sha": "a" * 40}})

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        return {
            "Path": name,
            "Name": name.rsplit("/")[-1],
            "Type": "blob",
            "Size": len(content),
            "Sha256": sha256(content),
        }
