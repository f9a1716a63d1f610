"""Weights of the Rattan program's model folders: safetensors files, as ``state_dict`` takes and gives them."""

import ctypes
import json
import math
import os
import pathlib
import struct
from collections.abc import Mapping

import torch
from torch import Tensor

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def load(path: str | os.PathLike[str], prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of ``model.safetensors`` in a folder, whose names start with `prefix`,
    under their names without it: ``mixer.load_state_dict(load("runs/demo", "layers.0.mixer."))``."""
    file = pathlib.Path(path)
    if file.is_dir():
        file = file / "model.safetensors"
    tensors = {}
    with file.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
        for name, entry in header.items():
            if name == "__metadata__" or not name.startswith(prefix):
                continue
            begin, end = entry["data_offsets"]
            stream.seek(8 + length + begin)
            data, dtype, shape = bytearray(stream.read(end - begin)), DTYPES[entry["dtype"]], entry["shape"]
            if len(data) != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{file}: {name} should be {dtype} of shape {shape}, but has {len(data)} bytes")
            value = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
            tensors[name.removeprefix(prefix)] = value.view(shape)
    if not tensors:
        raise KeyError(f"{file} holds no tensor whose name starts with '{prefix}'")
    return tensors


def save(tensors: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Writes a safetensors file that the program reads."""
    header, offset = {}, 0
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    for name, value in values.items():
        shape, end = list(value.shape), offset + value.nbytes
        header[name] = {"dtype": NAMES[value.dtype], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for value in values.values():
            stream.write(ctypes.string_at(value.data_ptr(), value.nbytes))
