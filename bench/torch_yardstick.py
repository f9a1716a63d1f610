#!/usr/bin/env python3
"""The demo's model in plain PyTorch: eager, bf16 by autocast, each layer written the obvious way.

Trains on the same packed tokens with the demo's settings (recipes/demo.toml), and prints one JSON document: tokens/s
(median over the steps after the first three), and with --evaluate bits per byte of the held-out text, measured as
`rattan train` does: in windows of the training length.
"""
import argparse
import json
import math
import os
import statistics
import time

import torch
import torch.nn.functional as F

from eager_rat import EagerRat


class SlidingWindow(torch.nn.Module):
    def __init__(self, d_model: int, heads: int, window: int):
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = torch.nn.RMSNorm(d_model, eps=1e-6)
        self.in_proj = torch.nn.Linear(d_model, 3 * d_model, bias=False)
        self.out_proj = torch.nn.Linear(d_model, d_model, bias=False)

    def rope(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[-1] // 2
        angle = torch.arange(x.shape[-2]).unsqueeze(-1) * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, d_model = x.shape
        v, q, k = (t.view(batch, tokens, self.heads, -1).transpose(1, 2)
                   for t in self.in_proj(self.norm(x)).chunk(3, -1))
        q, k = self.rope(q), self.rope(k)
        if self.window >= tokens - 1:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            back = torch.arange(tokens).unsqueeze(-1) - torch.arange(tokens)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=(back >= 0) & (back <= self.window))
        return x + self.out_proj(y.transpose(1, 2).reshape(batch, tokens, d_model))


class FeedForward(torch.nn.Module):
    def __init__(self, d_model: int, hidden: int):
        super().__init__()
        self.norm = torch.nn.RMSNorm(d_model, eps=1e-6)
        self.up = torch.nn.Linear(d_model, hidden, bias=False)
        self.down = torch.nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Hybrid(torch.nn.Module):
    def __init__(self, vocabulary: int, d_model: int, layers: int, heads: int, chunk: int, window: int, std: float):
        super().__init__()
        self.embed = torch.nn.Embedding(vocabulary, d_model)
        blocks = []
        for i in range(layers):
            mixer = SlidingWindow(d_model, heads, window) if i % 2 else EagerRat(d_model, heads, 2, chunk)
            blocks += [mixer, FeedForward(d_model, 4 * d_model)]
        self.blocks = torch.nn.Sequential(*blocks)
        self.norm = torch.nn.RMSNorm(d_model, eps=1e-6)
        for module in self.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
                torch.nn.init.normal_(module.weight, std=std)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.linear(self.norm(self.blocks(self.embed(ids))), self.embed.weight)


def read_split(folder: str, split: str) -> tuple[torch.Tensor, int]:
    """The tokens of a split of packed data, and how many bytes of text they stand for."""
    with open(os.path.join(folder, "manifest.json")) as file:
        entry = json.load(file)["splits"][split]
    tokens = []
    for shard in entry["shards"]:
        with open(os.path.join(folder, shard["file"]), "rb") as file:
            file.seek(64)
            tokens.append(torch.frombuffer(bytearray(file.read(2 * shard["tokens"])), dtype=torch.uint16))
    return torch.cat(tokens).long(), entry["bytes"]


def windows(tokens: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets [N, length] of the whole text; targets beyond its end are -100."""
    rows = -(-(len(tokens) - 1) // length)
    ids, targets = torch.zeros(rows * length, dtype=torch.long), torch.full((rows * length,), -100)
    ids[: len(tokens) - 1], targets[: len(tokens) - 1] = tokens[:-1], tokens[1:]
    return ids.view(rows, length), targets.view(rows, length)


def bits_per_byte(model: Hybrid, folder: str, length: int, batch: int) -> float:
    tokens, size = read_split(folder, "valid")
    ids, targets = windows(tokens, length)
    nats = 0.0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for i in range(0, len(ids), batch):
            logits = model(ids[i : i + batch]).float().flatten(0, 1)
            nats += F.cross_entropy(logits, targets[i : i + batch].flatten(), reduction="sum").item()
    return nats / math.log(2) / size


def learning_rate(at: float, peak: float, warmup: float) -> float:
    """Linear warm-up, then a cosine to nearly 0; `at` goes from 0 to 1."""
    if at < warmup:
        return peak * at / warmup
    return 1e-6 + (peak - 1e-6) * 0.5 * (1 + math.cos(math.pi * min(1.0, (at - warmup) / (1 - warmup))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="folder made by `rattan data pack` (runs/demo/data)")
    parser.add_argument("--seconds", type=float, default=20, help="how long to train")
    parser.add_argument("--evaluate", action="store_true", help="bits per byte of the held-out text at the end")
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--seq", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the time")
    parser.add_argument("--std", type=float, default=0.04)
    parser.add_argument("--threads", type=int, default=0, help="0: one a core")
    options = parser.parse_args()
    torch.manual_seed(1)
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    tokens, _ = read_split(options.data, "train")
    ids, targets = windows(tokens, options.seq)
    ids, targets = ids[:-1], targets[:-1]  # whole windows
    model = Hybrid(2048, options.d_model, options.layers, options.heads, options.chunk, options.window, options.std)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    order, times, losses = torch.randperm(len(ids)), [], []
    start = last = time.perf_counter()
    while last - start < options.seconds:
        if len(order) < options.batch:
            order = torch.cat((order, torch.randperm(len(ids))))
        rows, order = order[: options.batch], order[options.batch :]
        for group in optimizer.param_groups:
            group["lr"] = learning_rate((last - start) / options.seconds, options.lr, options.warmup)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[rows])
        loss = F.cross_entropy(logits.float().flatten(0, 1), targets[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        now = time.perf_counter()
        times.append(now - last)
        last = now
    per_step = options.batch * options.seq
    result = {"torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters()),
              "steps": len(times), "tokens": len(times) * per_step, "loss": losses[-1],
              "tokens_per_second": per_step / statistics.median(times[3:] or times)}
    if options.evaluate:
        result["bits_per_byte"] = bits_per_byte(model, options.data, options.seq, options.batch)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
