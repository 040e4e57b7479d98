"""A local replacement of the Hugging Face Hub: repositories of files, LFS and tokens, as huggingface_hub uses them."""

import base64
import hashlib
import http.server
import json
import re

TOKEN = "hf_" + "a" * 34
LFS_SIZE = 10_000  # bytes: files from this size on are uploaded with LFS


class Hub(http.server.ThreadingHTTPServer):
    """A server of model repositories.

    repositories: the files of each, by name. private: names of repositories. objects: LFS uploads, by SHA-256.
    commits: (repository, summary, paths).
    """

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

    def respond(self, status, content=b"", **headers):
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
    def is_authorized(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def do_POST(self):
        content, path = self.body(), self.path.partition("?")[0]
        if path == "/api/validate-yaml":
            return self.respond(200, {"errors": [], "warnings": []})
        if not self.is_authorized:
            return self.respond(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            return self.create(json.loads(content))
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(content)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LFS_SIZE else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            return self.respond(200, {"files": modes})
        if re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.server.address}/lfs/{item['oid']}"}}}
                for item in json.loads(content)["objects"]
            ]
            return self.respond(200, {"transfer": "basic", "objects": objects})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            return self.commit(match[1], [json.loads(line) for line in content.splitlines()])
        return self.respond(404, {"error": "not found"})

    def create(self, request):
        name = f"{request.get('organization') or 'me'}/{request['name']}"
        if name.startswith("strangers/"):
            return self.respond(403, {"error": "Forbidden"})
        address = f"{self.server.address}/{name}"
        if name in self.server.repositories:
            return self.respond(409, {"url": address, "error": "You already created this model repo"})
        self.server.repositories[name] = {}
        if request.get("private") or request.get("visibility") == "private":
            self.server.private.add(name)
        return self.respond(200, {"url": address, "name": name, "id": name})

    def commit(self, name, lines):
        files, paths = self.server.repositories[name], []
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.objects[value["oid"]]
            if line["key"] != "header":
                paths.append(value["path"])
        self.server.commits.append((name, lines[0]["value"]["summary"], sorted(paths)))
        oid = f"{len(self.server.commits):040d}"
        address = f"{self.server.address}/{name}/commit/{oid}"
        return self.respond(200, {"success": True, "commitOid": oid, "commitUrl": address, "hookOutput": ""})

    def do_PUT(self):
        content = self.body()
        oid = self.path.rpartition("/")[2]
        if hashlib.sha256(content).hexdigest() != oid:
            return self.respond(400)
        self.server.objects[oid] = content
        return self.respond(200)

    def do_GET(self):
        if (match := re.fullmatch(r"/api/models/(.+)", self.path)) and match[1] in self.server.repositories:
            return self.respond(200, {"id": match[1], "private": match[1] in self.server.private})
        match = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        if match is None or match[1] not in self.server.repositories:
            return self.respond(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        if match[1] in self.server.private and not self.is_authorized:
            return self.respond(401, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
        content = self.server.repositories[match[1]].get(match[3])
        if content is None:
            return self.respond(404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound")
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.respond(200, content, ETag=tag, X_Repo_Commit=f"{len(self.server.commits):040d}")

    do_HEAD = do_GET  # noqa: N815
