"""A server that speaks the Hub's HTTP interface, as far as its client needs it to make, fill and read a repository.

Weights and pictures go the way of large files (git LFS, "basic" transfer), all else into the commit itself.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from local_hub import REPOSITORY, LocalHub, blob_id, is_large, sha256

TOKEN = "hf_thetokenofatest"
COMMIT = "a" * 40


class HubServer(LocalHub):
    """As the Hub, it says of large files that they lie in Xet's storage, which is elsewhere."""

    token = TOKEN

    def handle(self, request: Any, path: str, query: dict[str, str], content: bytes) -> None:
        if path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked.get('organization') or 'someone'}/{asked['name']}"
            known = name in self.repositories
            self.repositories.setdefault(name, {"private": asked.get("private", False), "files": {}})
            request.answer(409 if known else 200, {"url": f"{self.url}/{name}", "name": name})
        elif path == "/api/validate-yaml":
            request.answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/objects/(\w+)", path):
            self.objects[match[1]] = content
            request.answer(200)
        elif re.fullmatch(rf"/{REPOSITORY}\.git/info/lfs/objects/batch", path):
            objects = json.loads(content)["objects"]
            for item in objects:
                item["actions"] = {"upload": {"href": f"{self.url}/objects/{item['oid']}"}}
            request.answer(200, {"transfer": "basic", "objects": objects})
        elif re.fullmatch(rf"/api/models/{REPOSITORY}/preupload/main", path):
            modes = [
                (file["path"], "lfs" if is_large(file["path"]) else "regular") for file in json.loads(content)["files"]
            ]
            request.answer(
                200, {"files": [{"path": n, "shouldIgnore": False, "uploadMode": mode} for n, mode in modes]}
            )
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/commit/main", path):
            self.commit(request, match[1], content)
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}/tree/main", path):
            request.answer(200, [self.entry(*item) for item in self.repositories[match[1]]["files"].items()])
        elif match := re.fullmatch(rf"/api/models/{REPOSITORY}(/revision/[^/]+)?", path):
            if match[1] not in self.repositories:
                request.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
                return
            files = [{"rfilename": name} for name in self.repositories[match[1]]["files"]]
            about = {"id": match[1], "modelId": match[1], "sha": COMMIT, "siblings": files, "tags": []}
            request.answer(200, {**about, "private": self.repositories[match[1]]["private"]})
        elif match := re.fullmatch(rf"/{REPOSITORY}/resolve/[^/]+/(.+)", path):
            found = self.repositories.get(match[1], {"files": {}})["files"].get(match[2])
            if found is None:
                request.answer(404, {}, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            else:
                hashed, headers = blob_id(found), {"X_Repo_Commit": COMMIT}
                if is_large(match[2]):
                    hashed = sha256(found)
                    headers["X_Xet_Hash"] = hashed
                    headers["Link"] = f'<{self.url}/api/models/{match[1]}/xet-read-token/{COMMIT}>; rel="xet-auth"'
                request.answer(200, found, ETag=f'"{hashed}"', **headers)
        else:
            request.answer(404, {"error": f"the test's server knows no {request.command} {path}"})

    def commit(self, request: Any, repository: str, content: bytes) -> None:
        files = self.repositories[repository]["files"]
        if self.failures:
            request.answer(self.failures.pop(0), {"error": "not now"})
            return
        for line in content.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.objects[value["oid"]]
            elif item["key"] == "deletedFile":
                del files[value["path"]]
        self.damage(files)
        request.answer(200, {"commitUrl": f"{self.url}/{repository}/commit/{COMMIT}", "commitOid": COMMIT})

    @staticmethod
    def entry(name: str, content: bytes) -> dict[str, Any]:
        about: dict[str, Any] = {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
        if is_large(name):
            about["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 130}
        return about
