"""A model folder with random weights that is made quickly: one period of the layers is drawn, the others are its copies.
What a server does with them takes the same time."""

import json
import re
import struct

import vocabulary


def layers_of(text):
    """(layers, layers of one period) of a configuration."""
    pattern = re.search(r"^pattern *= *\[([^\]]*)\]", text, re.M)[1]
    return int(re.search(r"^n_layers *= *(\d+)", text, re.M)[1]), len([x for x in pattern.split(",") if x.strip()])


def stack(folder, layers, period):
    """Repeats the layers of a model folder until there are as many."""
    config = json.loads((folder / "config.json").read_text())
    config["model"]["n_layers"] = layers
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    path = folder / "model.safetensors"
    data = path.read_bytes()
    [size] = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + size]), memoryview(data)[8 + size:]
    tensors = {}
    for name, entry in header.items():
        own = re.fullmatch(r"layers\.(\d+)\.(.*)", name)
        for i in range(int(own[1]), layers, period) if own else [None]:
            tensors[name if i is None else f"layers.{i}.{own[2]}"] = entry
    metadata, pieces, at = tensors.pop("__metadata__"), [], 0
    out = {"__metadata__": metadata}
    for name in sorted(tensors):
        first, last = tensors[name]["data_offsets"]
        out[name] = {**tensors[name], "data_offsets": [at, at + last - first]}
        pieces.append(body[first:last])
        at += last - first
    text = json.dumps(out).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for piece in pieces:
            file.write(piece)


def make(rattan, config, folder):
    """`rattan` runs the program. The tokenizer has as many pieces as the model, so that no row of logits is idle."""
    text = config.read_text()
    size, (layers, period) = int(re.search(r"^vocab_size *= *(\d+)", text, re.M)[1]), layers_of(text)
    tokenizer = folder.parent / "tokenizer.model"
    tokenizer.write_bytes(vocabulary.model_of(size))
    rattan("init", config, f"model.n_layers={period}", "--out", folder, "--tokenizer", tokenizer)
    if layers > period:
        stack(folder, layers, period)
