"""A Hub in memory, with the endpoints that huggingface_hub uses to create, fill, list and download repositories.

huggingface_hub reads the environment once: give a new process `Hub.environment`, and call `use_hub` in this one.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from helpers.servers import LocalServer, served

TOKEN = "hub-token-of-a-test"
USER = "ada"
LARGE = (".safetensors", ".bin", ".parquet", ".gguf", ".onnx")  # files that the Hub stores by git LFS
DATE = "2026-01-01T00:00:00.000Z"
KINDS = {"models": "model", "datasets": "dataset"}
Fault = Callable[
    [str, str], "int | None"
]  # method and path of a request: its status, 0 to disconnect, None to serve it


@dataclass
class Repository:
    """The files of each commit by their path, and the commit of each branch; branches and commits are never empty."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: Mapping[str, bytes], message: str) -> str:
        text = repr((len(self.commits), message, sorted(files)))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = dict(files), sha
        self.messages.append(message)
        return sha

    def sha(self, revision: str) -> str | None:
        found = self.branches.get(revision, revision)
        return found if found in self.commits else None

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.branches.get(revision, revision)]


class Hub(LocalServer):
    """`requests` are the methods and paths in their order; `authorizations` the tokens that they had."""

    def __init__(self, port: int = 0, fault: Fault = lambda method, path: None) -> None:
        super().__init__(port, Handler)
        self.fault = fault
        self.tokens = {TOKEN: USER}
        self.lock = threading.RLock()
        self.repositories: dict[tuple[str, str], Repository] = {}  # by kind and name
        self.objects: dict[str, bytes] = {}  # of LFS, by sha256
        self.requests: list[tuple[str, str]] = []
        self.authorizations: set[str | None] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that uses this Hub."""
        return {"HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def repository(self, name: str, kind: str = "model") -> Repository:
        return self.repositories[kind, name]

    def add(
        self, name: str, files: Path | Mapping[str, bytes], kind: str = "model", private: bool = False
    ) -> Repository:
        """Add a repository with the files of a folder, or with these."""
        if isinstance(files, Path):
            files = {
                each.relative_to(files).as_posix(): each.read_bytes() for each in files.rglob("*") if each.is_file()
            }
        repository = Repository(private)
        repository.commit("main", {".gitattributes": b"", **files}, "initial commit")
        self.repositories[kind, name] = repository
        return repository


@contextmanager
def hub(fault: Fault = lambda method, path: None) -> Iterator[Hub]:
    with served(Hub(0, fault)) as server:
        yield server


def use_hub(server: Hub, patch: Any, cache: Path, token: str | None = TOKEN) -> None:
    """Let this process use a Hub, with an empty cache, until pytest's monkeypatch is undone."""
    from huggingface_hub import constants

    from peftkit.config.source import hub_is_reachable

    for name, value in (("ENDPOINT", server.address), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        patch.setattr(constants, name, value)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants._HF_DEFAULT_ENDPOINT, server.address)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    patch.setattr("peftkit.pipeline.libraries.hub_is_reachable", hub_is_reachable.__wrapped__)
    for name, value in {**server.environment, "HF_TOKEN": token}.items():
        patch.delenv(name, raising=False)
        if value is not None:
            patch.setenv(name, value)


class Refused(Exception):
    """A request that ends with a status, an error code of the Hub and a message."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        self.status, self.code, self.message = status, code, message


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Hub

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        url = urlsplit(self.path)
        path, self.query = unquote(url.path), parse_qs(url.query)
        body = self._body()
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        with self.server.lock:
            self.server.requests.append((self.command, path))
            self.server.authorizations.add(token)
        status = self.server.fault(self.command, path)
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        try:
            if status is not None:
                raise Refused(status, message="not now")
            self.user = self.server.tokens.get(token or "")
            if token is not None and self.user is None:
                raise Refused(401, message="Invalid credentials in Authorization header")
            with self.server.lock:
                self._route(path, body)
        except Refused as refused:
            headers = {"X-Error-Code": refused.code} if refused.code else {}
            headers |= {"X-Error-Message": refused.message} if refused.message else {}
            self._send({"error": refused.message}, refused.status, headers)

    def _route(self, path: str, body: bytes) -> None:
        parts = path.strip("/").split("/")
        if path == "/":
            self._send(b"a hub")
        elif parts[0] == "lfs":
            self._object(parts[1], body)
        elif path == "/api/whoami-v2":
            self._needs_user()
            self._send({"type": "user", "name": self.user, "orgs": [], "auth": {"accessToken": {"role": "write"}}})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(body)["content"])
        elif parts[0] == "api" and parts[1] in KINDS:
            name = "/".join(parts[2:4])
            self._api(KINDS[parts[1]], name, parts[4:], body)
        elif match := re.fullmatch(r"/(datasets/)?(.+)\.git/info/lfs/objects/batch", path):
            self._batch("dataset" if match[1] else "model", match[2], json.loads(body))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+|refs/[^/]+/[^/]+)/(.+)", path):
            self._resolve("dataset" if match[1] else "model", *match.groups()[1:])
        else:
            raise Refused(404)

    def _api(self, kind: str, name: str, parts: list[str], body: bytes) -> None:
        repository = self._find(kind, name)
        action, rest = (parts[0], "/".join(parts[1:])) if parts else ("revision", "main")
        if action == "refs":
            branches = [
                {"name": each, "ref": f"refs/heads/{each}", "targetCommit": sha}
                for each, sha in repository.branches.items()
            ]
            self._send({"branches": branches, "converts": [], "tags": []})
            return
        if action == "branch":
            self._may_write(name)
            if rest in repository.branches:
                raise Refused(409, message="Reference already exists")
            repository.branches[rest] = repository.branches["main"]
            self._send({})
            return
        if action == "tree":
            revision, _, folder = rest.partition("/")
            self._tree(repository, revision, folder)
            return
        sha = self._revision(repository, rest)
        files = repository.commits[sha]
        if action == "revision":
            siblings = [{"rfilename": path} for path in sorted(files)]
            found = {"_id": sha[:24], "id": name, "modelId": name, "sha": sha, "lastModified": DATE, "createdAt": DATE}
            found |= {"private": repository.private, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}
            self._send(found | {"gated": False, "disabled": False})
        elif action == "paths-info":
            wanted = parse_qs(body.decode())["paths"] if body[:1] != b"{" else json.loads(body)["paths"]
            self._send([_entry(path, files[path]) for path in wanted if path in files])
        elif action == "preupload":
            self._may_write(name)
            self._send({"files": [_upload(each, files) for each in json.loads(body)["files"]]})
        elif action == "commit":
            self._may_write(name)
            self._commit(repository, name, rest, body)
        else:
            raise Refused(404)

    def _create(self, wanted: dict[str, Any]) -> None:
        self._needs_user()
        name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        self._may_write(name)
        key = (wanted.get("type") or "model", name)
        if key in self.server.repositories:
            raise Refused(409, message="You already created this model repo")
        self.server.add(name, {}, key[0], private=wanted.get("visibility") == "private")
        self._send({"url": f"{self.server.address}/{name}"})

    def _validate(self, content: str) -> None:
        match = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            found = yaml.safe_load(match[1]) if match else None
        except yaml.YAMLError:
            found = None
        if not isinstance(found, dict):
            self._send({"errors": [{"message": "no metadata"}], "warnings": []}, 400)
            return
        self._send({"errors": [], "warnings": []})

    def _commit(self, repository: Repository, name: str, branch: str, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        header = lines[0]["value"]
        if header.get("parentCommit", repository.branches.get(branch)) != repository.branches.get(branch):
            raise Refused(412, message="A commit has happened since. Please refresh and try again.")
        files = dict(repository.files(branch))
        for line in lines[1:]:
            value, path = line["value"], line["value"]["path"]
            if line["key"] == "file":
                files[path] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.server.objects:
                    raise Refused(400, message=f"the object of {path} was not uploaded")
                files[path] = self.server.objects[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[path]
            else:
                files = {each: data for each, data in files.items() if not each.startswith(path.rstrip("/") + "/")}
        sha = repository.commit(branch, files, header["summary"])
        url = f"{self.server.address}/{name}/commit/{sha}"
        self._send({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def _batch(self, kind: str, name: str, wanted: dict[str, Any]) -> None:
        self._find(kind, name)
        self._may_write(name)
        objects = []
        for each in wanted["objects"]:
            place = {"upload": {"href": f"{self.server.address}/lfs/{each['oid']}", "header": {}}}
            objects.append(each if each["oid"] in self.server.objects else {**each, "actions": place})
        self._send({"transfer": "basic", "objects": objects})

    def _object(self, oid: str, body: bytes) -> None:
        if self.command == "PUT":
            if hashlib.sha256(body).hexdigest() != oid:
                raise Refused(400, message="the content has another hash")
            self.server.objects[oid] = body
            self._send({})
        else:
            self._send_file(self.server.objects[oid], {})

    def _resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        repository = self._find(kind, name)
        sha = self._revision(repository, revision)
        if path not in repository.commits[sha]:
            raise Refused(404, "EntryNotFound", "Entry not found")
        data = repository.commits[sha][path]
        entry = _entry(path, data)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if "lfs" not in entry:
            self._send_file(data, {**headers, "ETag": f'"{entry["oid"]}"'})
            return
        oid = entry["lfs"]["oid"]
        self.server.objects[oid] = data
        headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(data))}
        # another host, as the Hub's storage is: huggingface_hub follows no redirects to other hosts for a HEAD
        place = self.server.address.replace("127.0.0.1", "localhost")
        self._send(b"", 302, {**headers, "Location": f"{place}/lfs/{oid}"})

    def _tree(self, repository: Repository, revision: str, folder: str) -> None:
        files = repository.commits[self._revision(repository, revision)]
        inside = {path: data for path, data in files.items() if not folder or path.startswith(f"{folder}/")}
        if folder and not inside:
            raise Refused(404, "EntryNotFound", "Entry not found")
        is_recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for path, data in sorted(inside.items()):
            parents = [str(each) for each in Path(path).parents if str(each) not in (".", folder)]
            folders.update(parents if is_recursive else parents[-1:])
            if is_recursive or not parents:
                entries.append(_entry(path, data))
        entries += [{"type": "directory", "path": each, "oid": _git(each.encode()), "size": 0} for each in folders]
        self._send(entries)

    def _find(self, kind: str, name: str) -> Repository:
        found = self.server.repositories.get((kind, name))
        if found is None or (found.private and self.user is None):
            raise Refused(404 if self.user else 401, "RepoNotFound", "Repository not found")
        return found

    def _revision(self, repository: Repository, revision: str) -> str:
        sha = repository.sha(revision)
        if sha is None:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def _needs_user(self) -> None:
        if self.user is None:
            raise Refused(401, message="Invalid username or password.")

    def _may_write(self, name: str) -> None:
        self._needs_user()
        if name.partition("/")[0] != self.user:
            raise Refused(403, message=f"You don't have the rights to write to {name}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _send_file(self, data: bytes, headers: Mapping[str, str]) -> None:
        """Send a file, or the part of it that is requested."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match is None:
            self._send(data, 200, headers)
            return
        first, last = int(match[1]), int(match[2] or len(data) - 1)
        self._send(data[first : last + 1], 206, {**headers, "Content-Range": f"bytes {first}-{last}/{len(data)}"})

    def _send(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        kind = "application/octet-stream" if isinstance(content, bytes) else "application/json"
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def _upload(wanted: dict[str, Any], files: Mapping[str, bytes]) -> dict[str, Any]:
    """Return how a file is uploaded, with the id of the one at its path."""
    path = wanted["path"]
    known = _entry(path, files[path]) if path in files else {}
    oid = known.get("lfs", known).get("oid")
    mode = "lfs" if path.endswith(LARGE) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}


def _entry(path: str, data: bytes) -> dict[str, Any]:
    found = {"type": "file", "path": path, "size": len(data), "oid": _git(data)}
    if path.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
    return found


def _git(data: bytes) -> str:
    """Return the id of git for the content of a file."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
