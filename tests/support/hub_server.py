"""A stand-in for a model hub on this machine: repositories of files, LFS, tokens, as huggingface_hub speaks to them."""

import base64
import hashlib
import http.server
import json
import re

TOKEN = "hf_" + "a" * 34
LARGE = 10_000  # bytes: from here on a file goes by LFS


class Hub(http.server.ThreadingHTTPServer):
    """repositories: the files of each, by name. objects: what was sent by LFS, by its SHA-256."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, str, list[str]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, content=b"", **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self):
        content, path = self.body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if not self.known:
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(content)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] >= LARGE else "regular", "shouldIgnore": False}
                for f in files
            ]
            return self.answer(200, {"files": modes})
        if re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.server.address}/lfs/{each['oid']}"}}}
                for each in json.loads(content)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            return self.commit(match[1], [json.loads(line) for line in content.splitlines()])
        return self.answer(404, {"error": "not found"})

    def create(self, asked):
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if name.startswith("strangers/"):
            return self.answer(403, {"error": "Forbidden"})
        address = f"{self.server.address}/{name}"
        if name in self.server.repositories:
            return self.answer(409, {"url": address, "error": "You already created this model repo"})
        self.server.repositories[name] = {}
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(name)
        return self.answer(200, {"url": address, "name": name, "id": name})

    def commit(self, name, lines):
        files, sent = self.server.repositories[name], []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            if line["key"] != "header":
                sent.append(value["path"])
        self.server.commits.append((name, lines[0]["value"]["summary"], sorted(sent)))
        oid = f"{len(self.server.commits):040d}"
        address = f"{self.server.address}/{name}/commit/{oid}"
        return self.answer(200, {"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""})

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.answer(400)
        self.server.objects[oid] = content
        return self.answer(200)

    def do_GET(self):
        if (match := re.fullmatch(r"/api/models/(.+)", self.path)) and match[1] in self.server.repositories:
            return self.answer(200, {"id": match[1], "private": match[1] in self.server.private})
        match = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        if match is None or match[1] not in self.server.repositories:
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if match[1] in self.server.private and not self.known:
            return self.answer(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        content = self.server.repositories[match[1]].get(match[3])
        if content is None:
            return self.answer(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.answer(200, content, ETag=tag, X_Repo_Commit=f"{len(self.server.commits):040d}")

    do_HEAD = do_GET  # noqa: N815
