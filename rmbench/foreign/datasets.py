"""What datasets does not offer publicly."""

from __future__ import annotations

import sys


def go_offline() -> None:
    """Disable downloads, also if `datasets` is imported already, which copies the variable at import."""
    module = sys.modules.get("datasets.config")
    if module is not None:
        module.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]
