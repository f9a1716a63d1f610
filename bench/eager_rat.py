#!/usr/bin/env python3
"""The obvious PyTorch RAT layer: eager, torch's own operators, a Python loop over the L positions of a chunk.

Norm, projections, mixing, gate and residual as in `rattan bench layer`, forward and backward with weight gradients;
bf16 by autocast. Formulas: arXiv 2507.04416, section 3. Prints one JSON document.
"""
import argparse
import json
import math
import statistics
import time

import torch
import torch.nn.functional as F


class EagerRat(torch.nn.Module):
    def __init__(self, d_model: int, heads: int, groups: int, chunk: int):
        super().__init__()
        self.heads, self.groups, self.chunk, self.dim = heads, groups, chunk, d_model // heads
        self.norm = torch.nn.RMSNorm(d_model, eps=1e-6)
        self.in_proj = torch.nn.Linear(d_model, 3 * d_model + 2 * groups * self.dim, bias=False)
        self.out_proj = torch.nn.Linear(d_model, d_model, bias=False)
        self.gate_bias = torch.nn.Parameter(torch.log(1 + (max(chunk, 2) - 2) * torch.rand(d_model)))
        for linear in (self.in_proj, self.out_proj):
            torch.nn.init.normal_(linear.weight, std=0.02)

    def rope(self, x: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Rotates pairs (i, i + p/2) of x [..., p] at the given positions, which broadcast."""
        half = self.dim // 2
        angle = position.unsqueeze(-1) * 10000.0 ** (-torch.arange(half) / half)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def mix(self, proj: torch.Tensor) -> torch.Tensor:
        batch, tokens, _ = proj.shape
        d_model, chunks = self.heads * self.dim, tokens // self.chunk
        z, v, g, q, k = proj.split([d_model] * 3 + [self.groups * self.dim] * 2, -1)
        g = torch.sigmoid(g + self.gate_bias.to(g.dtype))
        repeat = self.heads // self.groups   # head h reads group h mod G
        q, k = q.repeat(1, 1, repeat), k.repeat(1, 1, repeat)
        g, k, v = (t.view(batch, chunks, self.chunk, d_model) for t in (g, k, v))
        k_now = v_now = torch.zeros(batch, chunks, d_model, dtype=proj.dtype)
        ks, vs = [], []
        for i in range(self.chunk):
            gate = g[:, :, i]
            k_now = gate * k_now + (1 - gate) * k[:, :, i]
            v_now = gate * v_now + (1 - gate) * v[:, :, i]
            ks.append(k_now)
            vs.append(v_now)
        shape = (batch, tokens, self.heads, self.dim)
        local_k, local_v = (torch.stack(t, 2).view(shape).transpose(1, 2) for t in (ks, vs))     # [B, H, T, p]
        ends_k, ends_v = (t.view(batch, chunks, self.heads, self.dim).transpose(1, 2) for t in (k_now, v_now))
        q = q.view(shape).transpose(1, 2)
        local = (q * local_k).sum(-1, keepdim=True) / math.sqrt(self.dim)
        index = torch.arange(chunks)
        of_token = index.repeat_interleave(self.chunk)
        scores = self.rope(q, of_token) @ self.rope(ends_k, index).transpose(-1, -2) / math.sqrt(self.dim)
        scores = scores.masked_fill(index >= of_token.unsqueeze(-1), -math.inf)                    # earlier chunks only
        weights = torch.cat((scores, local), -1).softmax(-1).to(proj.dtype)
        y = weights[..., :-1] @ ends_v + weights[..., -1:] * local_v
        return torch.sigmoid(z) * y.transpose(1, 2).reshape(batch, tokens, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.out_proj(self.mix(self.in_proj(self.norm(x))))


def operator_output(layer: EagerRat, proj: torch.Tensor) -> torch.Tensor:
    """The same mixing by the operator of librattan_ops."""
    batch, tokens, width = proj.shape
    per_row, length = tokens // layer.chunk, layer.chunk
    table = [[c * length, (c + 1) * length, c // per_row * per_row, c, c % per_row, -1, -1]
             for c in range(batch * per_row)]
    half = layer.dim // 2
    angle = torch.arange(per_row).unsqueeze(-1) * 10000.0 ** (-torch.arange(half) / half)
    out = torch.ops.rattan.rat(proj.reshape(-1, width), layer.gate_bias.detach(),
                               torch.tensor(table, dtype=torch.int32), angle.cos(), angle.sin(), layer.heads,
                               layer.groups, length, 1, len(table),
                               None, None, None, None)[0]
    return out.view(batch, tokens, -1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--groups", type=int, default=2)
    parser.add_argument("--chunk", type=int, default=16)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--calls", type=int, default=5)
    parser.add_argument("--check", metavar="LIBRARY", help="compare the mixing with the operator of librattan_ops.so")
    args = parser.parse_args()
    torch.manual_seed(1)
    layer = EagerRat(args.d_model, args.heads, args.groups, args.chunk)
    if args.check:
        torch.ops.load_library(args.check)
        with torch.no_grad():
            proj = torch.randn(2, 8 * args.chunk, layer.in_proj.out_features)
            error = (layer.mix(proj) - operator_output(layer, proj)).abs().max().item()
        print(json.dumps({"largest_difference": error}))
        raise SystemExit(0 if error < 1e-4 else 1)
    x = torch.randn(args.batch, args.seq, args.d_model) * 0.02
    gradient = torch.randn_like(x)
    seconds = []
    for call in range(args.calls + 1):
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            y = layer(x)
        y.backward(gradient)
        if call > 0:   # the first warms up
            seconds.append(time.perf_counter() - start)
        layer.zero_grad(set_to_none=True)
    print(json.dumps({"mixer": "eager", "mode": "train", "tokens": args.seq, "batch": args.batch, "dtype": args.dtype,
                      "seconds": statistics.median(seconds), "all_seconds": seconds, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
