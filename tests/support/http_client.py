"""Starlette's client for tests, over the httpx that esops uses itself."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it would rather have httpx2
    from starlette.testclient import TestClient

__all__ = ["TestClient"]
