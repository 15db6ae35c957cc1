"""The example cannot run here; it says what it lacks, and is no module of the engine's name."""

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[3] / "examples" / "tensorrt_llm_prefix.py"


def test_without_the_engine_it_says_so():
    ended = subprocess.run(
        [sys.executable, str(EXAMPLE), "--model", "any"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("TensorRT-LLM is not installed")
