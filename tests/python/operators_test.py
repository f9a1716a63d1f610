"""The operators of librattan_ops.so from Python: values and gradients through torch's autograd against plain torch
formulas in float64, a whole RAT layer against the golden file that the C++ layer reproduces, and a whole model
against what the C++ program says of it."""

import json
import math
import os
import pathlib
import subprocess
import tempfile
import unittest

import torch
import torch.nn.functional as F

from rattan import weights
from reference import rat_reference, worst

ops = torch.ops.rattan
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "rat"


def rat_mixing(proj, gate_bias, batch, tokens, heads, groups, chunk):
    """The operator `rat` on whole sequences from an empty state; proj [batch * tokens, width]."""
    half = gate_bias.numel() // heads // 2
    per_row = math.ceil(tokens / chunk)
    table = [[row * tokens + c * chunk, row * tokens + min(tokens, (c + 1) * chunk), row * per_row, row * per_row + c,
              c, -1, -1] for row in range(batch) for c in range(per_row)]
    angle = torch.arange(per_row).double().unsqueeze(1) * 10000.0 ** (-torch.arange(half).double() / half)
    return ops.rat(proj, gate_bias, torch.tensor(table, dtype=torch.int32), angle.cos().float(), angle.sin().float(),
                   heads, groups, chunk, batch, per_row, None, None, None, None)[0]


class AgainstFloat64(unittest.TestCase):
    """Outputs and gradients of an operator in fp32 against a formula in float64. 2e-5 of the largest value is a
    hundred fp32 roundings or more, as in the C++ tests against the golden files."""

    def compare(self, operator, formula, *inputs, tolerance=2e-5):
        single = [x.float().requires_grad_() for x in inputs]
        double = [x.detach().double().requires_grad_() for x in single]
        got, expected = operator(*single), formula(*double)
        self.assertEqual(got.dtype, torch.float32)
        self.assertLess(worst(got.detach(), expected.detach()), tolerance)
        gradient = torch.randn(expected.shape, dtype=torch.float64)
        expected.backward(gradient)
        got.backward(gradient.float())
        for i, (a, b) in enumerate(zip(single, double)):
            self.assertIsNotNone(a.grad, f"input {i} got no gradient")
            self.assertLess(worst(a.grad, b.grad), tolerance, f"gradient of input {i}")

    def setUp(self):
        torch.manual_seed(7)

    def test_gelu(self):
        self.compare(ops.gelu, F.gelu, torch.randn(33, 40))

    def test_swiglu(self):
        self.compare(ops.swiglu, lambda gate, up: F.silu(gate) * up, torch.randn(9, 40), torch.randn(9, 40))

    def test_sigmoid_mul(self):
        self.compare(ops.sigmoid_mul, lambda z, y: torch.sigmoid(z) * y, torch.randn(9, 40), torch.randn(9, 40))

    def test_add_rms_norm(self):
        def operator(x, branch, weight):
            total, y, _ = ops.add_rms_norm(x, branch, weight, 1e-6, torch.float32)
            return torch.cat((total, y))

        def formula(x, branch, weight):
            total = x + branch
            return torch.cat((total, F.rms_norm(total, (total.size(-1),), weight, 1e-6)))

        self.compare(operator, formula, torch.randn(21, 48), torch.randn(21, 48), torch.randn(48))

    def test_attention(self):
        """Causal attention with grouped heads over two packed documents of 19 and 12 tokens."""
        document = torch.tensor([0] * 19 + [1] * 12)
        begin = (document * 19).int()
        end = torch.arange(1, 32).int()

        def formula(q, k, v):
            k, v = (x.repeat_interleave(2, 1).transpose(0, 1) for x in (k, v))
            seen = (document.unsqueeze(1) == document) & torch.ones(31, 31, dtype=torch.bool).tril()
            scores = q.transpose(0, 1) @ k.transpose(1, 2) * 0.25
            return (scores.masked_fill(~seen, -math.inf).softmax(-1) @ v).transpose(0, 1)

        self.compare(lambda q, k, v: ops.attention(q, k, v, begin, end, 0.25)[0], formula,
                     torch.randn(31, 4, 16), torch.randn(31, 2, 16), torch.randn(31, 2, 16))

    def test_rope(self):
        position = torch.tensor([0, 5, 1, 7, 7], dtype=torch.int32)
        angle = torch.arange(8).double().unsqueeze(1) * 10000.0 ** (-torch.arange(4).double() / 4)

        def formula(x):
            turn = angle[position.long()].unsqueeze(1)
            a, b = x[..., :4], x[..., 4:]
            return torch.cat((a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()), -1)

        self.compare(lambda x: ops.rope(x, position, angle.cos().float(), angle.sin().float()), formula,
                     torch.randn(5, 3, 8))

    def test_gated_scan(self):
        """Two segments; the second starts from row 1 of the initial state."""
        table = torch.tensor([[0, 13, -1, 0], [13, 20, 1, 1]], dtype=torch.int32)

        def operator(x, gate, bias, initial):
            return torch.cat(ops.gated_scan(x, gate, bias, table, initial, 2))

        def formula(x, gate, bias, initial):
            out, final = [], []
            for begin, end, start in ((0, 13, torch.zeros_like(initial[0])), (13, 20, initial[1])):
                h = start
                for t in range(begin, end):
                    g = torch.sigmoid(gate[t] + bias)
                    h = g * h + (1 - g) * x[t]
                    out.append(h)
                final.append(h)
            return torch.stack(out + final)

        self.compare(operator, formula, torch.randn(20, 24), torch.randn(20, 24), torch.randn(24), torch.randn(2, 24))

    def test_rat(self):
        """Two sequences of two chunks and a tail."""
        sizes = dict(batch=2, tokens=11, heads=4, groups=2, chunk=4)
        self.compare(lambda proj, bias: rat_mixing(proj, bias, **sizes),
                     lambda proj, bias: rat_reference(proj, bias, **sizes),
                     torch.randn(22, 3 * 32 + 2 * 2 * 8), torch.randn(32))

    def test_linear_cross_entropy(self):
        """One target is left out, the rows are weighted."""
        target = torch.randint(0, 50, (30,))
        target[4] = -100
        weight = torch.rand(30)

        def formula(h, w):
            loss = F.cross_entropy(h @ w.t(), target, reduction="none", ignore_index=-100)
            return (loss * weight.double()).sum()

        self.compare(lambda h, w: ops.linear_cross_entropy(h, w, target, weight, True)[0], formula,
                     torch.randn(30, 16), torch.randn(50, 16))

    def test_bfloat16(self):
        """bf16 in, bf16 out; the operator rounds once, so half a unit in the last place is what it may lose."""
        x = torch.randn(33, 40).bfloat16()
        got, expected = ops.gelu(x), F.gelu(x.double())
        self.assertEqual(got.dtype, torch.bfloat16)
        self.assertLess(((got.double() - expected).abs() / expected.abs()).max().item(), 2**-8)


class AgainstTheProgram(unittest.TestCase):
    """What Python computes with the operators is what the C++ layers compute."""

    def test_golden_layer(self):
        """Norm, RAT, residual of the golden file; tolerances of the C++ test of the same file."""
        values = weights.load(GOLDEN / "layer_rat_l16.safetensors")
        names = ["x", *(f"layers.0.{name}" for name in ("mixer_norm.weight", "mixer.in_proj.weight", "mixer.gate_bias",
                                                        "mixer.out_proj.weight"))]
        x, norm, in_proj, gate_bias, out_proj = leaves = [values[name].clone().requires_grad_() for name in names]
        _, normed, _ = ops.add_rms_norm(x, None, norm, 1e-6, torch.float32)
        batch, tokens, width = x.shape
        mixed = rat_mixing(F.linear(normed, in_proj).view(batch * tokens, -1), gate_bias, batch, tokens, 4, 2, 16)
        y = x + F.linear(mixed, out_proj).view_as(x)
        self.assertLess((y.detach().double() - values["y"]).abs().max().item(), 2e-5)
        y.backward(values["dy"])
        self.assertLess((x.grad.double() - values["dx"]).abs().max().item(), 2e-4)
        for name, leaf in zip(names[1:], leaves[1:]):
            self.assertLess(worst(leaf.grad, values["grad." + name]), 2e-5, name)

    def test_model(self):
        """`rattan score` of a fresh model of two RAT layers, and the same model written with the operators."""
        program = os.environ["RATTAN_PROGRAM"]
        config = """
[model]
vocab_size = 257
d_model = 48
n_layers = 2
pattern = ["rat"]
ffn = { hidden = 80 }
[mixers.rat]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 4
"""
        torch.manual_seed(3)
        ids = torch.randint(0, 257, (23,))
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder)
            (path / "model.toml").write_text(config)
            subprocess.run([program, "init", path / "model.toml", "--out", path / "model", "--seed", "5"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            said = subprocess.run([program, "score", path / "model", "--tokens", ",".join(map(str, ids.tolist())),
                                   "--json"], check=True, stdout=subprocess.PIPE).stdout
            w = weights.load(path / "model" / "model.safetensors")
        stream, branch = w["embed.weight"][ids], None

        def norm(name):
            total, y, _ = ops.add_rms_norm(stream, branch, w[name], 1e-6, torch.float32)
            return (stream if branch is None else total), y

        for layer in (f"layers.{i}." for i in range(2)):
            stream, y = norm(layer + "mixer_norm.weight")
            mixed = rat_mixing(F.linear(y, w[layer + "mixer.in_proj.weight"]), w[layer + "mixer.gate_bias"], 1, 23, 4,
                               2, 4)
            branch = F.linear(mixed, w[layer + "mixer.out_proj.weight"])
            stream, y = norm(layer + "ffn_norm.weight")
            branch = F.linear(ops.gelu(F.linear(y, w[layer + "ffn.up.weight"])), w[layer + "ffn.down.weight"])
        _, y = norm("norm.weight")
        logits = F.linear(y, w.get("lm_head.weight", w["embed.weight"]))
        got = logits.log_softmax(-1)[:-1].gather(1, ids[1:, None])[:, 0]
        expected = json.loads(said)["logprobs"]
        self.assertIsNone(expected[0])
        # Both sum in fp32, in different orders.
        self.assertLess((got - torch.tensor(expected[1:])).abs().max().item(), 1e-4)


if __name__ == "__main__":
    unittest.main()
