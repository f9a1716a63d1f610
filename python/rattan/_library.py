"""Finds librattan_ops.so and loads it, which registers the operators as ``torch.ops.rattan.*``."""

import json
import os
import pathlib
from typing import Any

import torch

NAME = "librattan_ops.so"
HERE = pathlib.Path(__file__).resolve().parent


def find() -> pathlib.Path:
    """$RATTAN_OPS_LIBRARY, or the library of the wheel, or that of a build in a source checkout."""
    if named := os.environ.get("RATTAN_OPS_LIBRARY"):
        if not os.path.exists(named):
            raise ImportError(f"RATTAN_OPS_LIBRARY names {named}, which does not exist")
        return pathlib.Path(named)
    places = [HERE / NAME, HERE.parents[1] / "build" / "release" / NAME]
    for place in places:
        if place.exists():
            return place
    raise ImportError(
        f"{NAME} is in none of {', '.join(map(str, places))}. Install the package (pip install . in a source "
        "checkout), or build it there with ./dev build, or name a library in RATTAN_OPS_LIBRARY."
    )


def minor(version: str) -> str:
    """2.13 of 2.13.0+cpu"""
    return ".".join(version.split(".")[:2])


def check(info: dict[str, Any], library: pathlib.Path) -> None:
    """libtorch's C++ interface changes from one minor version to the next."""
    advice = (
        "Build Rattan for the installed one: pip install --no-build-isolation --force-reinstall --no-deps . in a "
        "source checkout."
    )
    if minor(info["torch"]) != minor(torch.__version__):
        raise ImportError(
            f"{library} was built for PyTorch {info['torch']}, but {torch.__version__} is installed. {advice}"
        )
    if info["cuda"] and torch.version.cuda is None:
        raise ImportError(
            f"{library} was built with CUDA kernels for PyTorch {info['torch']}, but {torch.__version__} is a build "
            f"without CUDA. {advice}"
        )


def load() -> dict[str, Any]:
    """Loads the library; returns what its build wrote beside it: version, torch, cuda."""
    library = find()
    note = library.with_suffix(".json")
    if not note.exists():
        raise ImportError(f"{note}, which the build writes beside {NAME}, is missing: build or install Rattan anew")
    info: dict[str, Any] = json.loads(note.read_text())
    check(info, library)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(
            f"{library} was built for PyTorch {info['torch']} and does not load into {torch.__version__}: {error}"
        ) from error
    return info
