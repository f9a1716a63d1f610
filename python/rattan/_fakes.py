"""Shapes and types of the operators' results, for tracing (torch.compile, torch.export, FakeTensor).

Formulas and layouts: rattan/ops/ops.h and rattan/kernels/*.h. Inputs are checked by the operators themselves.
"""

import torch
from torch import Tensor
from torch.library import register_fake

Optional = Tensor | None


@register_fake("rattan::attention")
def attention(q: Tensor, k: Tensor, v: Tensor, begin: Tensor, end: Tensor, scale: float):
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


@register_fake("rattan::attention_backward")
def attention_backward(d_o: Tensor, d_lse: Optional, q: Tensor, k: Tensor, v: Tensor, *_):
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


@register_fake("rattan::rat")
def rat(proj: Tensor, gate_bias: Tensor, table: Tensor, cos: Optional, sin: Optional, heads: int, groups: int,
        chunk: int, rows: int, ends: int, *_):
    dim = gate_bias.numel() // heads
    return (
        proj.new_empty((proj.shape[0], heads * dim)),
        proj.new_empty((proj.shape[0], heads), dtype=torch.float32),
        proj.new_empty((rows, ends, heads, dim)),
        proj.new_empty((rows, ends, heads, dim)),
        proj.new_empty((rows, heads, dim), dtype=torch.float32),
        proj.new_empty((rows, heads, dim), dtype=torch.float32),
    )


@register_fake("rattan::rat_backward")
def rat_backward(proj: Tensor, gate_bias: Tensor, table: Tensor, cos: Optional, sin: Optional, heads: int, groups: int,
                 chunk: int, ends_k: Tensor, ends_v: Tensor, running_k: Optional, running_v: Optional, *_):
    return (
        proj.new_empty(proj.shape),
        torch.empty_like(gate_bias),
        proj.new_empty(ends_k.shape, dtype=torch.float32),
        proj.new_empty(ends_v.shape, dtype=torch.float32),
        None if running_k is None else torch.empty_like(running_k),
        None if running_v is None else torch.empty_like(running_v),
    )


@register_fake("rattan::rat_extend_")
def rat_extend(proj: Tensor, gate_bias: Tensor, *_):
    return proj.new_empty((proj.shape[0], gate_bias.numel()))


@register_fake("rattan::rat_step_cached_")
def rat_step_cached(proj: Tensor, gate_bias: Tensor, *_):
    return proj.new_empty((proj.shape[0], gate_bias.numel()))


@register_fake("rattan::cache_store_")
def cache_store(codes: Tensor, exponents: Tensor, x: Tensor, source: Optional, rows: Tensor):
    return None


@register_fake("rattan::cache_load")
def cache_load(codes: Tensor, exponents: Tensor, source: Tensor, dtype: torch.dtype):
    return codes.new_empty((source.shape[0], *codes.shape[1:]), dtype=dtype)


@register_fake("rattan::cache_round")
def cache_round(x: Tensor):
    return x.new_empty(x.shape)


@register_fake("rattan::attention_cached")
def attention_cached(q: Tensor, *_):
    return q.new_empty(q.shape)


@register_fake("rattan::gated_scan")
def gated_scan(x: Tensor, gate: Tensor, gate_bias: Tensor, table: Tensor, initial: Optional, rows: int):
    return x.new_empty(x.shape), x.new_empty((rows, x.shape[1]), dtype=torch.float32)


@register_fake("rattan::gated_scan_backward")
def gated_scan_backward(x: Tensor, gate: Tensor, gate_bias: Tensor, table: Tensor, initial: Optional, *_):
    return (
        x.new_empty(x.shape),
        x.new_empty(x.shape),
        torch.empty_like(gate_bias),
        None if initial is None else torch.empty_like(initial),
    )


@register_fake("rattan::add_rms_norm")
def add_rms_norm(x: Tensor, branch: Optional, weight: Tensor, eps: float, dtype: torch.dtype):
    rows = x.numel() // max(1, x.shape[-1])
    return x.new_empty((0,) if branch is None else x.shape), x.new_empty(x.shape, dtype=dtype), x.new_empty((rows,))


@register_fake("rattan::add_rms_norm_backward")
def add_rms_norm_backward(y: Tensor, weight: Tensor, rstd: Tensor, d_y: Tensor, d_sum_in: Optional,
                          with_branch: bool):
    d_branch = d_y.new_empty(d_y.shape) if with_branch else None
    return rstd.new_empty(y.shape), d_branch, torch.empty_like(weight)


@register_fake("rattan::rope")
def rope(x: Tensor, *_, **__):
    return x.new_empty(x.shape)


@register_fake("rattan::gelu")
def gelu(x: Tensor):
    return x.new_empty(x.shape)


@register_fake("rattan::swiglu")
def swiglu(gate: Tensor, up: Tensor):
    return gate.new_empty(gate.shape)


@register_fake("rattan::sigmoid_mul")
def sigmoid_mul(z: Tensor, y: Tensor):
    return z.new_empty(z.shape)


@register_fake("rattan::activation_backward")
def activation_backward(kind: int, a: Tensor, b: Optional, d_out: Tensor):
    return a.new_empty(a.shape), None if b is None else a.new_empty(a.shape)


@register_fake("rattan::linear_cross_entropy")
def linear_cross_entropy(h: Tensor, w: Tensor, target: Tensor, weight: Optional, gradient: bool):
    loss = h.new_empty((), dtype=torch.float32)
    d_h, d_w = (h.shape, w.shape) if gradient else ((0,), (0,))
    return loss, h.new_empty(d_h), h.new_empty(d_w, dtype=torch.float32)


@register_fake("rattan::quantize_rows")
def quantize_rows(x: Tensor):
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), x.new_empty((x.shape[0],), dtype=torch.float32)
