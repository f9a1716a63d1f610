"""Runs one test file. Exit code 77 ("skipped") if this Python cannot load the torch that Rattan was built with
and RATTAN_TORCH_IS_FOREIGN says that it was made for another Python."""

import os
import runpy
import sys

try:
    import torch  # noqa: F401
except ImportError as error:
    print(f"{sys.executable} cannot import torch: {error}")
    sys.exit(77 if os.environ.get("RATTAN_TORCH_IS_FOREIGN") == "1" else 1)

path = sys.argv[1]
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(path))
runpy.run_path(path, run_name="__main__")
