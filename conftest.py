"""What the whole run leaves out, and why: modules that need the extra `encoder` where that is not installed."""

from __future__ import annotations

import importlib.util

MISSING = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]

NEEDING = ("hardware", "model", "packed", "pooling", "worker")
collect_ignore = (
    [*(f"encoders/{name}.py" for name in NEEDING), "streams/encoder_flow.py", "streams/encoder_metrics.py"]
    if MISSING
    else []
)


def pytest_report_header() -> str:
    """Say in the first lines of a run that something is left out."""
    if not MISSING:
        return "encoder: torch and transformers are here"
    return f"encoder: {' and '.join(MISSING)} not installed (extra: encoder), so its examples are left out and its tests skipped"
