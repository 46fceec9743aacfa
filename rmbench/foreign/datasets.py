"""What datasets does not offer publicly."""

from __future__ import annotations

import sys


def go_offline() -> None:
    """No downloads from now on, also where `datasets` is imported already: it copies the variable once, at import."""
    module = sys.modules.get("datasets.config")
    if module is not None:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
