"""The mixers of Rattan as modules: [B, T, D] -> [B, T, D], causal.

Parameters have the names, shapes and initial distribution of the program's ``layers.{i}.mixer.*``, so weights go both
ways (``rattan.weights``). Norm, residual and feed-forward layer are the block's, not the mixer's.

For generation each has ``init_state(batch, max_tokens)``, ``extend(x, state)`` for T more tokens, x [B, T, D], be they
a prompt, a piece of it or one token, and ``step(x, state)`` for one, x [B, D]. Both update the state in place, record
no gradients, and give what ``forward`` gives for the whole sequence.
"""

import dataclasses

import torch
from torch import Tensor, nn

from rattan import _tables, ops

__all__ = ["AttentionMixer", "AttentionState", "RatMixer", "RatState", "RnnMixer", "RnnState"]


class _Mixer(nn.Module):
    """What the mixers share: a projection in, one out, both without bias."""

    def __init__(self, d_model: int, width: int, init_std: float, device: torch.device | str | None,
                 dtype: torch.dtype | None) -> None:
        super().__init__()
        self.d_model, self.init_std = d_model, init_std
        self.in_proj = nn.Linear(d_model, width, bias=False, device=device, dtype=dtype)
        self.out_proj = nn.Linear(d_model, d_model, bias=False, device=device, dtype=dtype)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.in_proj.weight, std=self.init_std)
        nn.init.normal_(self.out_proj.weight, std=self.init_std)

    def state_dtype(self) -> torch.dtype:
        """The type that the projection computes in."""
        kind = self.in_proj.weight.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.in_proj.weight.dtype


def _check_room(x: Tensor, rows: int, taken: int, room: int) -> None:
    batch, tokens, _ = x.shape
    if batch != rows or tokens < 1 or taken + tokens > room:
        raise ValueError(f"{tokens} tokens for {batch} sequences do not fit a state of {rows} sequences with room for "
                         f"{room} tokens, of which {taken} are taken")


def _heads(d_model: int, n_heads: int, n_shared: int, name: str, rope: bool) -> int:
    if d_model % n_heads or n_heads % n_shared:
        raise ValueError(f"d_model={d_model} must be a multiple of n_heads={n_heads}, and that of {name}={n_shared}")
    if rope and d_model // n_heads % 2:
        raise ValueError(f"rotation needs an even head size, got {d_model // n_heads}")
    return d_model // n_heads


def _chrono_(bias: Tensor, longest: float) -> None:
    """log u, u ~ U(1, longest): gates that keep 1 + u steps (Tallec & Ollivier, arXiv 1804.11188)."""
    with torch.no_grad():
        bias.uniform_(1, max(1.0, longest)).log_()


@dataclasses.dataclass
class RatState:
    """What a RatMixer remembers of B sequences that all stand at `position`; updated in place."""

    ends_k: Tensor  # [B, ends, H, p]: an entry per chunk, rotated
    ends_v: Tensor
    running_k: Tensor  # fp32 [B, H, p]
    running_v: Tensor
    position: int = 0


class RatMixer(_Mixer):
    """RAT (arXiv 2507.04416): a gated recurrence inside chunks of L tokens, attention across chunk ends.

    The formulas stand at ``ops.rat_attention_packed``. Parameters: ``in_proj.weight`` [3D + 2Gp, D] with rows z, v,
    g, q, k; ``gate_bias`` [D], made in fp32 whatever `dtype`; ``out_proj.weight`` [D, D].
    """

    def __init__(self, d_model: int, n_heads: int = 16, n_groups: int = 2, chunk: int = 16, *, rope: bool = True,
                 rope_base: float = 10000.0, init_std: float = 0.02, device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:
        dim = _heads(d_model, n_heads, n_groups, "n_groups", rope)
        if chunk < 1:
            raise ValueError(f"chunk must be at least 1, got {chunk}")
        super().__init__(d_model, 3 * d_model + 2 * n_groups * dim, init_std, device, dtype)
        self.n_heads, self.n_groups, self.chunk, self.dim = n_heads, n_groups, chunk, dim
        self.rope_base = rope_base if rope else None
        self.gate_bias = nn.Parameter(torch.empty(d_model, device=device, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if self.chunk == 1:
            nn.init.constant_(self.gate_bias, -3.0)  # no memory to keep: 95 % of the token goes in
        else:
            _chrono_(self.gate_bias, self.chunk - 1)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        mixed = ops.rat_attention_packed(
            self.in_proj(x), self.gate_bias, n_heads=self.n_heads, n_groups=self.n_groups, chunk=self.chunk,
            rope_base=self.rope_base, cu_seqlens=cu_seqlens,
        )
        return self.out_proj(mixed)

    def init_state(self, batch: int, max_tokens: int) -> RatState:
        """An empty state with room for `max_tokens` a sequence."""
        weight, dtype = self.in_proj.weight, self.state_dtype()
        running = (batch, self.n_heads, self.dim)
        ends = (batch, max(1, -(-max_tokens // self.chunk)), self.n_heads, self.dim)
        return RatState(weight.new_zeros(ends, dtype=dtype), weight.new_zeros(ends, dtype=dtype),
                        weight.new_zeros(running, dtype=torch.float32), weight.new_zeros(running, dtype=torch.float32))

    @torch.no_grad()
    def extend(self, x: Tensor, state: RatState) -> Tensor:
        batch, tokens, _ = x.shape
        ends = state.ends_k.shape[1]
        _check_room(x, state.ends_k.shape[0], state.position, ends * self.chunk)
        table = _tables.state_chunks(batch, tokens, self.chunk, state.position, ends, x.device)
        cos = sin = None
        if self.rope_base is not None:
            cos, sin = _tables.rotation(ends, self.dim, self.rope_base, x.device)
        mixed = torch.ops.rattan.rat_extend_(
            self.in_proj(x).flatten(0, 1), self.gate_bias.float(), table, cos, sin, self.n_heads, self.n_groups,
            self.chunk, state.ends_k, state.ends_v, state.running_k, state.running_v, step=tokens == 1,
        )
        state.position += tokens
        return self.out_proj(mixed.unflatten(0, (batch, tokens)))

    def step(self, x: Tensor, state: RatState) -> Tensor:
        return self.extend(x.unsqueeze(1), state).squeeze(1)

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, n_groups={self.n_groups}, chunk={self.chunk}, rope_base={self.rope_base}"


@dataclasses.dataclass
class AttentionState:
    """The keys (rotated) and values of B sequences that all stand at `position`; updated in place."""

    k: Tensor  # [B, tokens, Hkv, p]
    v: Tensor
    position: int = 0


class AttentionMixer(_Mixer):
    """Softmax attention, over all earlier tokens or, with ``window``, over that many: the types attention and swa.

    Parameters: ``in_proj.weight`` with rows v, q, k; ``out_proj.weight``.
    """

    def __init__(self, d_model: int, n_heads: int = 16, n_kv_heads: int | None = None, *, window: int | None = None,
                 rope: bool = True, rope_base: float = 10000.0, init_std: float = 0.02,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        n_kv_heads = n_kv_heads or n_heads
        dim = _heads(d_model, n_heads, n_kv_heads, "n_kv_heads", rope)
        super().__init__(d_model, d_model + 2 * n_kv_heads * dim, init_std, device, dtype)
        self.n_heads, self.n_kv_heads, self.dim, self.window = n_heads, n_kv_heads, dim, window
        self.rope_base = rope_base if rope else None
        self.reset_parameters()

    def _project(self, x: Tensor, offset: int = 0, cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        shared = self.n_kv_heads * self.dim
        v, q, k = (part.unflatten(-1, (-1, self.dim))
                   for part in self.in_proj(x).split([shared, self.d_model, shared], -1))
        if self.rope_base is not None:
            q, k = (ops.rope(part, base=self.rope_base, offset=offset, cu_seqlens=cu_seqlens) for part in (q, k))
        return q, k, v

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        q, k, v = self._project(x, cu_seqlens=cu_seqlens)
        return self.out_proj(ops.attention(q, k, v, window=self.window, cu_seqlens=cu_seqlens).flatten(-2))

    def init_state(self, batch: int, max_tokens: int) -> AttentionState:
        """An empty cache with room for `max_tokens` a sequence, with a window as well."""
        shape = (batch, max_tokens, self.n_kv_heads, self.dim)
        weight, dtype = self.in_proj.weight, self.state_dtype()
        return AttentionState(weight.new_zeros(shape, dtype=dtype), weight.new_zeros(shape, dtype=dtype))

    @torch.no_grad()
    def extend(self, x: Tensor, state: AttentionState) -> Tensor:
        batch, tokens, _ = x.shape
        room, end = state.k.shape[1], state.position + tokens
        _check_room(x, state.k.shape[0], state.position, room)
        q, k, v = self._project(x, state.position)
        state.k[:, state.position:end] = k
        state.v[:, state.position:end] = v
        seen = _tables.state_keys(batch, tokens, state.position, room, self.window, x.device)
        out = torch.ops.rattan.attention(q.flatten(0, 1), state.k.flatten(0, 1), state.v.flatten(0, 1), *seen,
                                         self.dim ** -0.5)[0]
        state.position = end
        return self.out_proj(out.view(batch, tokens, -1))

    def step(self, x: Tensor, state: AttentionState) -> Tensor:
        return self.extend(x.unsqueeze(1), state).squeeze(1)

    def extra_repr(self) -> str:
        return f"n_heads={self.n_heads}, n_kv_heads={self.n_kv_heads}, window={self.window}, rope_base={self.rope_base}"


@dataclasses.dataclass
class RnnState:
    """h of B sequences; updated in place."""

    h: Tensor  # fp32 [B, D]


class RnnMixer(_Mixer):
    """A gated linear RNN over the whole sequence: out_proj(sigmoid(z) * h), h the ``ops.gated_scan`` of v.

    Parameters: ``in_proj.weight`` with rows z, v, g; ``gate_bias`` [D], made in fp32; ``out_proj.weight``. ``memory``
    is the longest memory that the gates start with, in tokens.
    """

    def __init__(self, d_model: int, memory: int = 4096, *, init_std: float = 0.02,
                 device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> None:
        super().__init__(d_model, 3 * d_model, init_std, device, dtype)
        self.memory = memory
        self.gate_bias = nn.Parameter(torch.empty(d_model, device=device, dtype=torch.float32))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        _chrono_(self.gate_bias, self.memory - 1)

    def _mix(self, x: Tensor, initial: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
        z, v, g = self.in_proj(x).split(self.d_model, -1)
        h, last = ops.gated_scan(v, g, self.gate_bias, initial=initial, cu_seqlens=cu_seqlens)
        return self.out_proj(ops.sigmoid_mul(z, h)), last

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None) -> Tensor:
        return self._mix(x, None, cu_seqlens)[0]

    def init_state(self, batch: int, max_tokens: int | None = None) -> RnnState:
        """A state of zeros; it does not grow with the tokens."""
        return RnnState(self.in_proj.weight.new_zeros((batch, self.d_model), dtype=torch.float32))

    @torch.no_grad()
    def extend(self, x: Tensor, state: RnnState) -> Tensor:
        y, last = self._mix(x, state.h, None)
        state.h.copy_(last)
        return y

    def step(self, x: Tensor, state: RnnState) -> Tensor:
        return self.extend(x.unsqueeze(1), state).squeeze(1)

    def extra_repr(self) -> str:
        return f"memory={self.memory}"
