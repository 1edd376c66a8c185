"""A workspace of its own for each test, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from workspace import Workspace, serve
from workspace_client import Client


@pytest.fixture
def workspace() -> Workspace:
    return Workspace()


@pytest.fixture
def client(workspace: Workspace) -> Iterator[Client]:
    with serve(workspace) as url:
        yield Client(url)
