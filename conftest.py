"""What the whole run leaves out, and why: modules that need the extra `encoder` where that is not installed."""

from __future__ import annotations

import importlib.util

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]

collect_ignore_glob = (
    ["encoders/[!befks]*.py", "encoders/packed.py", "encoders/worker.py", "streams/encoder_*.py"] if MISSING else []
)


def pytest_report_header() -> str:
    """Say in the first lines of a run that something is left out."""
    if not MISSING:
        return "encoder: torch and transformers are here"
    return f"encoder: {' and '.join(MISSING)} not installed (extra: encoder), so its tests and examples are left out"
