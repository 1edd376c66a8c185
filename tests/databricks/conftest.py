"""A workspace of its own for each test, and a client of it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from workspace import Workspace, serve
from workspace_client import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `scripts`, also where pytest was not started as a module


@pytest.fixture
def workspace() -> Workspace:
    return Workspace()


@pytest.fixture
def client(workspace: Workspace) -> Iterator[Client]:
    with serve(workspace) as url:
        yield Client(url)
