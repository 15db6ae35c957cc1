"""SGLang on a CPU. Importing this lets it be imported, where it is installed at all: see shim/sitecustomize.py."""

import importlib.util
import sys
from pathlib import Path

SHIM = Path(__file__).parent / "shim"


def _load_shim() -> None:
    """For this process, unless it was started with the shim; others that run SGLang are."""
    loaded = getattr(sys.modules.get("sitecustomize"), "__file__", None) or ""
    if importlib.util.find_spec("sglang") is not None and Path(loaded) != SHIM / "sitecustomize.py":
        spec = importlib.util.spec_from_file_location("kvstore_sglang_shim", SHIM / "sitecustomize.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_load_shim()
