"""Access control lists of jobs, experiments and other objects; secret scopes with the names of their secrets, never a value."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from workspace_answers import Failure, Request, absent, field_of, invalid

PRINCIPALS = ("user_name", "group_name", "service_principal_name")


class Permissions:
    """`lists`: entries by (type of object, id). `exist`: for a type, whether an id is there; types without an entry are not checked."""

    def __init__(self, exist: dict[str, Callable[[str], bool]]) -> None:
        self._exist = exist
        self.lists: dict[tuple[str, str], list[dict[str, Any]]] = {}

    def routes(self) -> list[tuple[str, str, Any]]:
        path = r"/api/2\.0/permissions/([^/]+)/(.+)"
        return [("GET", path, self.get), ("PUT", path, self.replace), ("PATCH", path, self.add)]

    def get(self, request: Request, kind: str, object_id: str) -> dict[str, Any]:
        """An object that is not there has an empty list."""
        there = kind not in self._exist or self._exist[kind](object_id)
        return {"access_control_list": copy.deepcopy(self.lists.get((kind, object_id), [])) if there else []}

    def replace(self, request: Request, kind: str, object_id: str) -> dict[str, Any]:
        self.lists[kind, object_id] = self._entries(request, kind, object_id)
        return self.get(request, kind, object_id)

    def add(self, request: Request, kind: str, object_id: str) -> dict[str, Any]:
        """One entry for each principal: the new one wins."""
        entries = [*self.lists.get((kind, object_id), []), *self._entries(request, kind, object_id)]
        self.lists[kind, object_id] = list({tuple(entry.get(name) for name in PRINCIPALS): entry for entry in entries}.values())
        return self.get(request, kind, object_id)

    def _entries(self, request: Request, kind: str, object_id: str) -> list[dict[str, Any]]:
        if kind in self._exist and not self._exist[kind](object_id):
            raise absent(f"{kind} {object_id}")
        entries = request.required("access_control_list", list)
        for entry in entries:
            field_of(entry, "permission_level")
            if sum(name in entry for name in PRINCIPALS) != 1:
                raise invalid(f"access_control_list: {entry} has to name exactly one of {', '.join(PRINCIPALS)}")
        return copy.deepcopy(entries)


class Secrets:
    """`scopes`: by scope, its access control list and the keys of its secrets."""

    def __init__(self) -> None:
        self.scopes: dict[str, dict[str, Any]] = {}

    def routes(self) -> list[tuple[str, str, Any]]:
        base = r"/api/2\.0/secrets/"
        return [
            ("POST", base + "scopes/create", self.create_scope),
            ("GET", base + "scopes/list", self.list_scopes),
            ("POST", base + "scopes/delete", self.delete_scope),
            ("POST", base + "acls/put", self.put_acl),
            ("GET", base + "acls/list", self.list_acls),
            ("POST", base + "acls/delete", self.delete_acl),
            ("POST", base + "put", self.put),
            ("GET", base + "list", self.list_all),
        ]

    def create_scope(self, request: Request) -> dict[str, Any]:
        if (scope := request.required("scope")) in self.scopes:
            raise Failure(400, "RESOURCE_ALREADY_EXISTS", f"scope {scope} already exists")
        self.scopes[scope] = {"acls": {}, "keys": set()}
        return {}

    def list_scopes(self, request: Request) -> dict[str, Any]:
        return {"scopes": [{"name": name, "backend_type": "DATABRICKS"} for name in sorted(self.scopes)]} if self.scopes else {}

    def delete_scope(self, request: Request) -> dict[str, Any]:
        self._scope(scope := request.required("scope"))
        del self.scopes[scope]
        return {}

    def put_acl(self, request: Request) -> dict[str, Any]:
        self._scope(request.required("scope"))["acls"][request.required("principal")] = request.required("permission")
        return {}

    def list_acls(self, request: Request) -> dict[str, Any]:
        acls = self._scope(request.query.get("scope", ""))["acls"]
        return {"items": [{"principal": who, "permission": what} for who, what in sorted(acls.items())]} if acls else {}

    def delete_acl(self, request: Request) -> dict[str, Any]:
        if self._scope(request.required("scope"))["acls"].pop(request.required("principal"), None) is None:
            raise absent(f"an entry for {request.required('principal')}")
        return {}

    def put(self, request: Request) -> dict[str, Any]:
        self._scope(request.required("scope"))["keys"].add(request.required("key"))
        return {}

    def list_all(self, request: Request) -> dict[str, Any]:
        keys = self._scope(request.query.get("scope", ""))["keys"]
        return {"secrets": [{"key": key} for key in sorted(keys)]} if keys else {}

    def _scope(self, name: str) -> dict[str, Any]:
        if name not in self.scopes:
            raise absent(f"scope {name!r}")
        return self.scopes[name]
