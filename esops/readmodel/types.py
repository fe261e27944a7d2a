"""What a row and its key are, and how the fingerprint of a version that the application builds
begins.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]
Key = Any
CHECKPOINT = "checkpoint "
"""How the fingerprint of what the application builds begins: its checkpoint's name follows."""
