"""Formulas by which the operators are judged."""

import math

import torch


def worst(got, expected):
    """Largest difference, relative to the largest expected value."""
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


def rat_reference(proj, gate_bias, batch, tokens, heads, groups, chunk):
    """The same by its formulas, token by token (arXiv 2507.04416, section 3)."""
    width = gate_bias.numel()
    dim = width // heads
    half = dim // 2

    def rotate(x, position):
        angle = position * 10000.0 ** (-torch.arange(half).double() / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), -1)

    rows = []
    for row in proj.view(batch, tokens, -1):
        ends_k, ends_v = [], []
        for t in range(tokens):
            z, v, g, q, k = row[t].split([width] * 3 + [groups * dim] * 2)
            q, k = (x.view(groups, dim).repeat(heads // groups, 1) for x in (q, k))
            g = torch.sigmoid(g + gate_bias).view(heads, dim)
            if t % chunk == 0:
                run_k, run_v = torch.zeros_like(k), torch.zeros_like(k)
            run_k, run_v = g * run_k + (1 - g) * k, g * run_v + (1 - g) * v.view(heads, dim)
            turned = rotate(q, t // chunk)
            scores = [(turned * end).sum(-1) for end in ends_k] + [(q * run_k).sum(-1)]
            weights = torch.softmax(torch.stack(scores) / math.sqrt(dim), 0)
            y = sum(w.unsqueeze(-1) * value for w, value in zip(weights, [*ends_v, run_v]))
            rows.append(torch.sigmoid(z) * y.flatten())
            if (t + 1) % chunk == 0:
                ends_k.append(rotate(run_k, t // chunk))
                ends_v.append(run_v)
    return torch.stack(rows)
