"""The tables that tell the operators which rows of a batch belong together (rattan/kernels/{rat,gated_scan}.h).

A batch is either dense, B sequences of T tokens, or packed: one row of N tokens that holds the documents
[cu_seqlens[i], cu_seqlens[i + 1]). Tables of dense batches are kept by shape, those of packed ones with their
cu_seqlens, so that the layers of a model share them.
"""

import functools
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T")


def kept_by_shape(build: Callable[P, T]) -> Callable[P, T]:
    """A compiler traces the builder itself: what it makes is then part of the graph."""
    kept = functools.lru_cache(maxsize=64)(build)

    @functools.wraps(build)
    def call(*args: Any) -> T:
        if torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0:
            return build(*args)  # type: ignore[call-arg]
        with torch.inference_mode(False), torch.no_grad():
            return kept(*args)

    return cast(Callable[P, T], call)


def columns(*parts: Tensor | int, like: Tensor) -> Tensor:
    """int32 [rows, columns]; each part broadcasts to the shape of `like`."""
    return torch.stack([torch.zeros_like(like) + part for part in parts], -1).flatten(0, -2)


def arange(n: int, device: torch.device) -> Tensor:
    return torch.arange(n, dtype=torch.int32, device=device)


@kept_by_shape
def dense_chunks(batch: int, tokens: int, chunk: int, device: torch.device) -> Tensor:
    """[B ceil(T / L), 7]; the ends of a sequence lie beside each other."""
    per_row = -(-tokens // chunk)
    row, c = arange(batch, device).unsqueeze(1), arange(per_row, device)
    begin, first = row * tokens + c * chunk, row * per_row
    end = torch.minimum(begin + chunk, (row + 1) * tokens)
    return columns(begin, end, first, first + c, c, -1, -1, like=begin)


@kept_by_shape
def state_chunks(batch: int, tokens: int, chunk: int, position: int, ends: int, device: torch.device) -> Tensor:
    """T more tokens for B sequences that stand at `position`; row r of the state has the ends [r E, (r + 1) E)."""
    from_chunk, last = position // chunk, (position + tokens - 1) // chunk
    row = arange(batch, device).unsqueeze(1)
    c = arange(last - from_chunk + 1, device) + from_chunk
    begin = row * tokens + (c * chunk - position).clamp_min(0)
    end = row * tokens + ((c + 1) * chunk - position).clamp_max(tokens)
    begun = (c == from_chunk) & (position % chunk != 0)
    come_from, leave_in = torch.where(begun, row, -1), torch.where(c == last, row, -1)
    return columns(begin, end, row * ends, row * ends + c, c, come_from, leave_in, like=begin)


def packed_ends(tokens: int, documents: int, chunk: int) -> int:
    """At least the number of chunks, from the shapes alone: every document may end in a chunk of one token."""
    return max(1, min(tokens, tokens // chunk + documents))


@torch.library.custom_op("rattan::packed_chunks", mutates_args=())
def packed_chunks_op(cu_seqlens: Tensor, chunk: int) -> Tensor:
    """[chunks, 7]; as an operator, since how many chunks there are only the values tell."""
    cu = cu_seqlens.int()
    each = (cu.diff() + chunk - 1).div(chunk, rounding_mode="floor")
    before = each.cumsum(0, dtype=torch.int32) - each
    document = torch.repeat_interleave(each)
    slot = arange(document.shape[0], cu.device)
    first = before[document]
    c = slot - first
    begin = cu[document] + c * chunk
    end = torch.minimum(begin + chunk, cu[document + 1])
    return columns(begin, end, first, slot, c, -1, -1, like=begin)


@packed_chunks_op.register_fake
def packed_chunks_fake(cu_seqlens: Tensor, chunk: int) -> Tensor:
    chunks = torch.library.get_ctx().new_dynamic_size()
    return cu_seqlens.new_empty((chunks, 7), dtype=torch.int32)


# By id, since tensors compare element by element; an entry leaves with its tensor.
packed: dict[int, tuple[weakref.ref[Tensor], int, dict[int, Tensor]]] = {}


def packed_chunks(cu_seqlens: Tensor, chunk: int) -> Tensor:
    if torch.compiler.is_compiling() or cu_seqlens.is_inference() or type(cu_seqlens) is not Tensor:
        return packed_chunks_op(cu_seqlens, chunk)
    key, version = id(cu_seqlens), cu_seqlens._version
    entry = packed.get(key)
    if entry is None or entry[0]() is not cu_seqlens or entry[1] != version:
        entry = (weakref.ref(cu_seqlens, lambda _: packed.pop(key, None)), version, {})
        packed[key] = entry
    if chunk not in entry[2]:
        with torch.inference_mode(False), torch.no_grad():
            entry[2][chunk] = packed_chunks_op(cu_seqlens, chunk)
    return entry[2][chunk]


@kept_by_shape
def dense_segments(batch: int, tokens: int, carried: bool, device: torch.device) -> Tensor:
    """[B, 4]: sequence r starts from row r of the initial states if there are any, and leaves its last in row r."""
    row = arange(batch, device)
    return columns(row * tokens, (row + 1) * tokens, row if carried else -1, row, like=row)


def packed_segments(cu_seqlens: Tensor, carried: bool) -> Tensor:
    cu = cu_seqlens.int()
    row = arange(cu.shape[0] - 1, cu.device)
    return columns(cu[:-1], cu[1:], row if carried else -1, row, like=row)


@kept_by_shape
def dense_keys(batch: int, queries: int, keys: int, causal: bool, window: int | None,
               device: torch.device) -> tuple[Tensor, Tensor]:
    """Intervals [begin, end) of keys that each query sees; the last query stands at the last key."""
    row = arange(batch, device).unsqueeze(1) * keys
    at = arange(queries, device) + (keys - queries)
    first, last = torch.zeros_like(at), at + 1
    if not causal:
        last = torch.full_like(at, keys)
    elif window is not None:
        first = (at - window).clamp_min(0)
    return (row + first).flatten(), (row + last).flatten()


@kept_by_shape
def state_keys(batch: int, tokens: int, position: int, room: int, window: int | None,
               device: torch.device) -> tuple[Tensor, Tensor]:
    """The same for T more tokens of sequences that stand at `position` of a cache of `room` entries a row."""
    row, at = arange(batch, device).unsqueeze(1) * room, arange(tokens, device) + position
    first = torch.zeros_like(at) if window is None else (at - window).clamp_min(0)
    return (row + first).flatten(), (row + at + 1).flatten()


def document_of(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """Index of the document that each token stands in."""
    return torch.searchsorted(cu_seqlens.int(), arange(tokens, cu_seqlens.device), right=True) - 1


def packed_keys(cu_seqlens: Tensor, tokens: int, causal: bool, window: int | None) -> tuple[Tensor, Tensor]:
    cu, document = cu_seqlens.int(), document_of(cu_seqlens, tokens)
    first, last = cu[document], cu[document + 1]
    if causal:
        at = arange(tokens, cu.device)
        last = at + 1
        if window is not None:
            first = torch.maximum(first, at - window)
    return first.contiguous(), last.contiguous()


@kept_by_shape
def dense_positions(batch: int, tokens: int, device: torch.device) -> Tensor:
    return arange(tokens, device).repeat(batch)


def packed_positions(cu_seqlens: Tensor, tokens: int) -> Tensor:
    return arange(tokens, cu_seqlens.device) - cu_seqlens.int()[document_of(cu_seqlens, tokens)]


@kept_by_shape
def rotation(positions: int, dim: int, base: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, fp32 [positions, dim / 2], of position base^(-2 i / dim)."""
    frequency = base ** (torch.arange(0, dim, 2, dtype=torch.float64, device=device) / -dim)
    angle = torch.arange(positions, dtype=torch.float64, device=device).unsqueeze(1) * frequency
    return angle.cos().float(), angle.sin().float()
