"""RAT and its companions for PyTorch: fused operators with autograd, and modules made of them.

    rattan.ops      functions: rat_attention, attention, gated_scan, rms_norm, rope, gelu, swiglu, ...
    rattan.nn       modules: RatMixer, AttentionMixer, RnnMixer
    rattan.weights  model folders of the Rattan program: load and save safetensors
"""

from rattan import _library

_info = _library.load()
__version__: str = _info["version"]

from rattan import _fakes, nn, ops, weights  # noqa: E402  (they need the operators)

__all__ = ["__version__", "nn", "ops", "weights"]
del _fakes
