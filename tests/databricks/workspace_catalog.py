"""Unity Catalog: schemas, volumes and registered models by their full names, and grants on them."""

from __future__ import annotations

import copy
from typing import Any

from workspace_answers import Failure, Request, absent, field_of, invalid, taken

PARENTS = {"schemas": ("catalog_name",), "volumes": ("catalog_name", "schema_name"), "models": ("catalog_name", "schema_name")}
KIND = r"(schemas|volumes|models)"
SECURABLE = {"schema": "schemas", "volume": "volumes", "function": "models", "registered_model": "models"}


class Catalog:
    """`objects`: by kind and full name. `grants`: privileges by (securable type, full name) and principal."""

    def __init__(self, user: str, catalogs: frozenset[str] | None) -> None:
        self._user, self._catalogs = user, catalogs
        self.objects: dict[str, dict[str, dict[str, Any]]] = {kind: {} for kind in PARENTS}
        self.grants: dict[tuple[str, str], dict[str, set[str]]] = {}

    def routes(self) -> list[tuple[str, str, Any]]:
        base = r"/api/2\.1/unity-catalog/"
        grants = base + r"permissions/([^/]+)/([^/]+)"
        return [
            ("POST", base + KIND, self.create),
            ("GET", base + KIND, self.list_all),
            ("GET", base + KIND + r"/([^/]+)", self.get),
            ("PATCH", base + KIND + r"/([^/]+)", self.update),
            ("DELETE", base + KIND + r"/([^/]+)", self.delete),
            ("GET", base + r"catalogs/([^/]+)", self.get_catalog),
            ("GET", grants, self.get_grants),
            ("PATCH", grants, self.change_grants),
        ]

    def get_catalog(self, request: Request, name: str) -> dict[str, Any]:
        self._require_catalog(name)
        return {"name": name, "full_name": name, "owner": self._user}

    def create(self, request: Request, kind: str) -> dict[str, Any]:
        body = request.json()
        full_name = ".".join([field_of(body, part) for part in (*PARENTS[kind], "name")])
        self._require_catalog(body["catalog_name"])
        if kind != "schemas" and (schema := f"{body['catalog_name']}.{body['schema_name']}") not in self.objects["schemas"]:
            raise absent(f"schema {schema}")
        if kind == "volumes" and body.get("volume_type") not in ("MANAGED", "EXTERNAL"):
            raise invalid(f"volume_type {body.get('volume_type')!r}: expected MANAGED or EXTERNAL")
        if full_name in self.objects[kind]:
            raise taken(f"{kind[:-1]} {full_name}")
        self.objects[kind][full_name] = {**body, "full_name": full_name, "owner": self._user}
        return copy.deepcopy(self.objects[kind][full_name])

    def get(self, request: Request, kind: str, full_name: str) -> dict[str, Any]:
        return copy.deepcopy(self._known(kind, full_name))

    def list_all(self, request: Request, kind: str) -> dict[str, Any]:
        """Those of one catalog (and schema), by name."""
        wanted = {part: request.query[part] for part in PARENTS[kind] if part in request.query}
        found = [one for _, one in sorted(self.objects[kind].items()) if all(one[part] == name for part, name in wanted.items())]
        return {"registered_models" if kind == "models" else kind: copy.deepcopy(found)} if found else {}

    def update(self, request: Request, kind: str, full_name: str) -> dict[str, Any]:
        """Comment, owner and the like; `new_name` renames."""
        known, changes = self._known(kind, full_name), request.json()
        if renamed := changes.pop("new_name", None):
            changes |= {"name": renamed, "full_name": ".".join([*full_name.split(".")[:-1], renamed])}
            if changes["full_name"] in self.objects[kind]:
                raise taken(f"{kind[:-1]} {changes['full_name']}")
            self.objects[kind][changes["full_name"]] = self.objects[kind].pop(full_name)
        known |= changes
        return copy.deepcopy(known)

    def delete(self, request: Request, kind: str, full_name: str) -> dict[str, Any]:
        """A schema with something in it only goes, with all of that, when `force` is asked for."""
        self._known(kind, full_name)
        if kind == "schemas":
            inside = [(part, name) for part in ("volumes", "models") for name in self.objects[part] if name.startswith(f"{full_name}.")]
            if inside and request.query.get("force") != "true":
                raise Failure(400, "INVALID_STATE", f"schema {full_name} is not empty: {', '.join(name for _, name in inside)}")
            for part, name in inside:
                del self.objects[part][name]
        del self.objects[kind][full_name]
        return {}

    def get_grants(self, request: Request, securable: str, full_name: str) -> dict[str, Any]:
        granted = self._granted(securable, full_name)
        held = [{"principal": who, "privileges": sorted(what)} for who, what in sorted(granted.items()) if what]
        return {"privilege_assignments": held} if held else {}

    def change_grants(self, request: Request, securable: str, full_name: str) -> dict[str, Any]:
        """What a change removes goes first (ALL_PRIVILEGES: everything), then comes what it adds."""
        granted = self._granted(securable, full_name)
        for change in request.required("changes", list):
            principal, removed = field_of(change, "principal"), set(change.get("remove", []))
            kept = set() if "ALL_PRIVILEGES" in removed else granted.get(principal, set()) - removed
            granted[principal] = kept | set(change.get("add", []))
        return self.get_grants(request, securable, full_name)

    def _granted(self, securable: str, full_name: str) -> dict[str, set[str]]:
        if kind := SECURABLE.get(securable):
            self._known(kind, full_name)
        elif securable == "catalog":
            self._require_catalog(full_name)
        else:
            raise invalid(f"securable type {securable!r}: expected one of {', '.join(SECURABLE)}, catalog")
        return self.grants.setdefault((securable, full_name), {})

    def _known(self, kind: str, full_name: str) -> dict[str, Any]:
        if full_name not in self.objects[kind]:
            raise absent(f"{kind[:-1]} {full_name}")
        return self.objects[kind][full_name]

    def _require_catalog(self, name: str) -> None:
        if self._catalogs is not None and name not in self._catalogs:
            raise absent(f"catalog {name}")
