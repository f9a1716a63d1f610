"""The operators of Rattan as functions of ordinary tensors.

All run on CPU and, in a build with CUDA, on GPUs; take float32 or bfloat16; are differentiable unless they say
otherwise; can be compiled (``torch.compile(fullgraph=True)``); and run in bfloat16 under ``torch.autocast``. Gates,
scans, softmax statistics, norms and losses are computed in fp32 whatever the type.

Batches are dense, [B, T, ...], or packed: B is 1 and ``cu_seqlens``, int32 [documents + 1], says that document i is
[cu_seqlens[i], cu_seqlens[i + 1]); the last entry is T. Nothing leaks from one document into another. On a GPU,
``rat_attention`` reads cu_seqlens once on the host; pass the same tensor to all layers.

The operators beneath, with tables of their own, are ``torch.ops.rattan.*`` (rattan/ops/ops.h).
"""

import math
from typing import Literal

import torch
from torch import Tensor

from rattan import _tables

__all__ = [
    "add_rms_norm", "attention", "gated_scan", "gelu", "linear_cross_entropy", "rat_attention", "rat_attention_packed",
    "rms_norm", "rope", "sigmoid_mul", "swiglu",
]

_ops = torch.ops.rattan


def _check_packed(x: Tensor, cu_seqlens: Tensor | None) -> None:
    if cu_seqlens is None:
        return
    if x.shape[0] != 1:
        raise ValueError(f"a packed batch (cu_seqlens given) has one row, but this one has {x.shape[0]}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 2 or cu_seqlens.is_floating_point():
        raise ValueError(f"cu_seqlens must be integers [documents + 1], got {cu_seqlens.dtype} of shape "
                         f"{list(cu_seqlens.shape)}")
    if cu_seqlens.device != x.device:
        raise ValueError(f"cu_seqlens is on {cu_seqlens.device}, the batch on {x.device}")


def rat_attention_packed(proj: Tensor, gate_bias: Tensor, *, n_heads: int, n_groups: int, chunk: int,
                         rope_base: float | None = 10000.0, cu_seqlens: Tensor | None = None) -> Tensor:
    """RAT (arXiv 2507.04416) of a projection that holds all its inputs: z * y, [B, T, D].

    proj is [B, T, 3D + 2Gp] = [z | v | g | q | k] of widths D, D, D, Gp, Gp with D = Hp; head h uses the query and
    key of group h mod G; gate_bias is [D] or [H, p]. With L = `chunk`::

        z = sigmoid(z),  g = sigmoid(g + gate_bias)
        k~_t = g k~_{t-1} + (1 - g) k,  v~_t = g v~_{t-1} + (1 - g) v        from 0 at the start of each chunk
        y_t = attention of q_t over the last k~, v~ of all earlier chunks and over k~_t, v~_t

    Queries and chunk ends are rotated by their chunk index; ``rope_base=None``: not at all. T need not be a multiple
    of L. This form reads the projection as it lies; ``rat_attention`` is the same on separate tensors.
    """
    _check_packed(proj, cu_seqlens)
    batch, tokens, _ = proj.shape
    dim = gate_bias.numel() // n_heads
    per_row = -(-tokens // chunk)
    if cu_seqlens is None:
        table, ends = _tables.dense_chunks(batch, tokens, chunk, proj.device), batch * per_row
    else:
        table = _tables.packed_chunks(cu_seqlens, chunk)
        ends = _tables.packed_ends(tokens, cu_seqlens.shape[0] - 1, chunk)
    cos = sin = None
    if rope_base is not None:
        cos, sin = _tables.rotation(per_row, dim, rope_base, proj.device)
    bias = gate_bias.flatten().float()
    out = _ops.rat(proj.flatten(0, 1), bias, table, cos, sin, n_heads, n_groups, chunk, 1, max(1, ends),
                   None, None, None, None)[0]
    return out.unflatten(0, (batch, tokens))


def rat_attention(z: Tensor, v: Tensor, g: Tensor, q: Tensor, k: Tensor, gate_bias: Tensor, *, chunk: int,
                  rope_base: float | None = 10000.0, cu_seqlens: Tensor | None = None) -> Tensor:
    """RAT of separate tensors: z, v, g [B, T, H, p], q, k [B, T, G, p], gate_bias [H, p] -> [B, T, H, p].

    z and g are taken before their sigmoid. Formulas: ``rat_attention_packed``, which saves the copy into one tensor.
    """
    heads, dim, groups = z.shape[-2], z.shape[-1], q.shape[-2]
    proj = torch.cat([x.flatten(-2) for x in (z, v, g, q, k)], -1)
    out = rat_attention_packed(proj, gate_bias, n_heads=heads, n_groups=groups, chunk=chunk, rope_base=rope_base,
                               cu_seqlens=cu_seqlens)
    return out.unflatten(-1, (heads, dim))


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True, window: int | None = None,
              cu_seqlens: Tensor | None = None, scale: float | None = None) -> Tensor:
    """Softmax attention: q [B, T, H, p], k, v [B, S, Hkv, p] -> [B, T, H, p]; scale is 1 / sqrt(p).

    H is a multiple of Hkv; key head j serves the query heads [j H / Hkv, (j + 1) H / Hkv). Causal queries are the
    last T of S positions and see what is not later; with ``window`` themselves and `window` tokens before.
    """
    _check_packed(q, cu_seqlens)
    batch, queries, keys = q.shape[0], q.shape[1], k.shape[1]
    if window is not None and not causal:
        raise ValueError("a window needs causal=True")
    if causal and queries > keys:
        raise ValueError(f"{queries} causal queries need at least as many keys, got {keys}")
    if cu_seqlens is None:
        begin, end = _tables.dense_keys(batch, queries, keys, causal, window, q.device)
    elif queries != keys:
        raise ValueError(f"packed queries and keys are the same tokens, got {queries} and {keys}")
    else:
        begin, end = _tables.packed_keys(cu_seqlens, queries, causal, window)
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    out = _ops.attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), begin, end, scale)[0]
    return out.unflatten(0, (batch, queries))


def gated_scan(x: Tensor, gate: Tensor, gate_bias: Tensor, *, initial: Tensor | None = None,
               cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """h_t = g_t h_{t-1} + (1 - g_t) x_t with g = sigmoid(gate + gate_bias): x, gate [B, T, C], gate_bias [C].

    Returns h [B, T, C] and the last states, fp32 [B, C] (or [documents, C]). ``initial`` has the shape of the last
    states; without it sequences start from 0.
    """
    _check_packed(x, cu_seqlens)
    batch, tokens, _ = x.shape
    if cu_seqlens is None:
        rows, table = batch, _tables.dense_segments(batch, tokens, initial is not None, x.device)
    else:
        rows, table = cu_seqlens.shape[0] - 1, _tables.packed_segments(cu_seqlens, initial is not None)
    initial = None if initial is None else initial.float().contiguous()
    h, last = _ops.gated_scan(x.flatten(0, 1), gate.flatten(0, 1), gate_bias.float(), table, initial, rows)
    return h.unflatten(0, (batch, tokens)), last


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, in the type of x."""
    return _ops.add_rms_norm(x.float(), None, weight.float(), eps, x.dtype)[1]


def add_rms_norm(stream: Tensor, branch: Tensor, weight: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """stream + branch, in fp32, and its RMSNorm in the type of branch: a residual and the next norm in one pass."""
    total, y, _ = _ops.add_rms_norm(stream.float(), branch, weight.float(), eps, branch.dtype)
    return total, y


def rope(x: Tensor, *, base: float = 10000.0, offset: int = 0, cu_seqlens: Tensor | None = None) -> Tensor:
    """Rotary embedding of x [B, T, H, p]: channels i and i + p/2 turn by position base^(-2i/p).

    Positions count from `offset`, or from 0 in each packed document.
    """
    _check_packed(x, cu_seqlens)
    batch, tokens, _, dim = x.shape
    if cu_seqlens is None:
        position = _tables.dense_positions(batch, tokens, x.device) + offset
    else:
        position = _tables.packed_positions(cu_seqlens, tokens) + offset
    cos, sin = _tables.rotation(offset + tokens, dim, base, x.device)
    return _ops.rope(x.flatten(0, 1), position, cos, sin).unflatten(0, (batch, tokens))


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), by erf."""
    return _ops.gelu(x)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up"""
    return _ops.swiglu(gate, up)


def sigmoid_mul(z: Tensor, y: Tensor) -> Tensor:
    """sigmoid(z) * y"""
    return _ops.sigmoid_mul(z, y)


def linear_cross_entropy(h: Tensor, weight: Tensor, target: Tensor, *, row_weight: Tensor | None = None,
                         reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Cross-entropy of the logits h weight^T, without ever holding them all: h [..., D], weight [V, D], target [...].

    Targets below 0 are left out. ``row_weight`` [...] weighs rows; the mean is over the sum of weights.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be mean or sum, got {reduction!r}")
    rows, target = h.flatten(0, -2), target.flatten()
    row_weight = None if row_weight is None else row_weight.flatten().float()
    gradient = torch.is_grad_enabled() and (h.requires_grad or weight.requires_grad)
    total = _ops.linear_cross_entropy(rows, weight, target, row_weight, gradient)[0]
    if reduction == "sum":
        return total
    counted = (target >= 0).float()
    return total / (counted if row_weight is None else counted * row_weight).sum()
