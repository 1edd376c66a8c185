"""The tree of workspace files: folders, files, and notebooks (which lose their extension on the way in)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from workspace_answers import Failure, Request, absent, invalid, taken

ROOT = "/Workspace"
HEADERS = {".py": b"# Databricks notebook source", ".sql": b"-- Databricks notebook source"}
LANGUAGES = {".py": "PYTHON", ".sql": "SQL", ".ipynb": "PYTHON"}


class Files:
    """`contents`: bytes by path; `notebooks`: language by path; `folders`: id by path. `/Users/x` and `/Workspace/Users/x` are one path."""

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self.contents: dict[str, bytes] = {}
        self.notebooks: dict[str, str] = {}
        self.object_ids: dict[str, int] = {}
        self.folders: set[str] = {ROOT, f"{ROOT}/Users", f"{ROOT}/Shared"}

    def routes(self) -> list[tuple[str, str, Any]]:
        return [
            ("GET", r"/api/2\.0/workspace/get-status", self.get_status),
            ("GET", r"/api/2\.0/workspace/list", self.list_all),
            ("GET", r"/api/2\.0/workspace/export", self.export),
            ("POST", r"/api/2\.0/workspace/mkdirs", self.mkdirs),
            ("POST", r"/api/2\.0/workspace/delete", self.delete),
            ("POST", r"/api/2\.0/workspace-files/import-file/(.+)", self.import_file),
            ("GET", r"/api/2\.0/workspace-files/(.+)", self.read_file),
        ]

    def get_status(self, request: Request) -> dict[str, Any]:
        return self._status(_path(request.query.get("path")))

    def list_all(self, request: Request) -> dict[str, Any]:
        path = _path(request.query.get("path"))
        self._status(path)
        inside = sorted(name for name in (*self.folders, *self.contents) if str(PurePosixPath(name).parent) == path)
        return {"objects": [self._status(name) for name in inside]} if inside else {}

    def export(self, request: Request) -> dict[str, Any] | bytes:
        """The bytes themselves with `direct_download`, else in base64."""
        content = self._content(_path(request.query.get("path")))
        return content if request.query.get("direct_download") == "true" else {"content": base64.b64encode(content).decode()}

    def read_file(self, request: Request, name: str) -> bytes:
        return self._content(_path(name))

    def mkdirs(self, request: Request) -> dict[str, Any]:
        path = PurePosixPath(_path(request.required("path")))
        for folder in (path, *path.parents):
            if str(folder) in self.contents:
                raise taken(f"a file {folder}")
        self.folders |= {str(folder) for folder in (path, *path.parents) if folder.is_relative_to(ROOT)}
        return {}

    def import_file(self, request: Request, name: str) -> dict[str, Any]:
        """One file, its parent folder being there already. A notebook is kept under its name without the extension."""
        path = PurePosixPath(_path(name))
        if str(path.parent) not in self.folders:
            raise absent(f"the parent of {path}")
        notebook = path.suffix == ".ipynb" or (path.suffix in HEADERS and request.body.startswith(HEADERS[path.suffix]))
        target = str(path.with_suffix("") if notebook else path)
        if target in self.folders:
            raise invalid(f"{target} is a folder")
        if target in self.contents and request.query.get("overwrite") != "true":
            raise taken(target)
        self.contents[target] = request.body
        self.notebooks.pop(target, None)
        if notebook:
            self.notebooks[target] = LANGUAGES[path.suffix]
        return {}

    def delete(self, request: Request) -> dict[str, Any]:
        """A path and, when `recursive`, all below it. What is not there is deleted already."""
        path = _path(request.required("path"))
        below = {name for name in (*self.folders, *self.contents) if name.startswith(f"{path}/")}
        if below and not request.json().get("recursive"):
            raise Failure(400, "DIRECTORY_NOT_EMPTY", f"{path} is not empty: recursive=true deletes it with what is in it")
        for name in (path, *below):
            self.folders.discard(name)
            for known in (self.contents, self.notebooks, self.object_ids):
                known.pop(name, None)
        return {}

    def _content(self, path: str) -> bytes:
        if path not in self.contents:
            raise absent(path)
        return self.contents[path]

    def _status(self, path: str) -> dict[str, Any]:
        if path not in self.folders and path not in self.contents:
            raise absent(path)
        kind = "DIRECTORY" if path in self.folders else "NOTEBOOK" if path in self.notebooks else "FILE"
        status = {"object_type": kind, "path": path, "object_id": self.object_ids.setdefault(path, next(self._ids))}
        return {**status, "language": self.notebooks[path]} if kind == "NOTEBOOK" else status


def _path(text: str | None) -> str:
    if not text:
        raise invalid("path: expected a workspace path")
    path = "/" + text.strip("/")
    return path if path == ROOT or path.startswith(f"{ROOT}/") else ROOT + path
