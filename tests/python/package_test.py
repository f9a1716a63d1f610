"""The package rattan: its functions mean what they say, every operator can be traced and compiled, autocast, and the
modules' forms agree."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
import torch.nn.functional as F
from torch.library import opcheck

import rattan
from rattan import _library, nn, ops
from reference import rat_reference, worst

PACKAGE = pathlib.Path(rattan.__file__).parent
raw = torch.ops.rattan
# A hundred fp32 roundings, relative to the largest value, as in operators_test.py.
CLOSE = 2e-5


def leaf(*shape):
    return torch.randn(*shape, requires_grad=True)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


class Loading(unittest.TestCase):
    def run_python(self, code, **environment):
        path = f"{PACKAGE.parent}:{os.environ.get('PYTHONPATH', '')}"
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)

    def test_version_is_that_of_the_build(self):
        text = (pathlib.Path(__file__).parents[2] / "CMakeLists.txt").read_text()
        self.assertIn(f"project(Rattan VERSION {rattan.__version__} ", text)

    def test_missing_library(self):
        run = self.run_python("import rattan", RATTAN_OPS_LIBRARY="/nowhere/librattan_ops.so")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("RATTAN_OPS_LIBRARY names /nowhere/librattan_ops.so, which does not exist", run.stderr)

    def test_library_of_another_torch(self):
        """Both versions are named, and what to do."""
        with tempfile.TemporaryDirectory() as folder:
            library = pathlib.Path(folder) / "librattan_ops.so"
            library.touch()
            note = {"version": "0.1.0", "torch": "1.0.2+cpu", "cuda": False}
            library.with_suffix(".json").write_text(json.dumps(note))
            run = self.run_python("import rattan", RATTAN_OPS_LIBRARY=str(library))
        self.assertNotEqual(run.returncode, 0)
        for part in ("1.0.2+cpu", torch.__version__, "--no-build-isolation"):
            self.assertIn(part, run.stderr)

    def test_cuda_library_without_cuda(self):
        note = {"version": "0.1.0", "torch": torch.__version__, "cuda": True}
        if torch.version.cuda is None:
            with self.assertRaisesRegex(ImportError, "without CUDA"):
                _library.check(note, pathlib.Path("librattan_ops.so"))
        else:
            _library.check(note, pathlib.Path("librattan_ops.so"))


class Tracing(unittest.TestCase):
    """torch.library.opcheck: schema, autograd registration, fake implementation, AOT dispatch with dynamic shapes."""

    def cases(self):
        heads, groups, dim, chunk, tokens = 4, 2, 8, 4, 11
        width = heads * dim
        table = torch.cat([ints([0, 4, 0, 0, 0, -1, -1]), ints([4, 8, 0, 1, 1, -1, -1]), ints([8, 11, 0, 2, 2, -1, 0])])
        begun = ints([0, 2, 0, 1, 1, 0, -1], [2, 5, 0, 2, 2, -1, 0])
        steps = ints(*[[i, i + 1, 3 * i, 3 * i + 2, 2, i, i] for i in range(5)])
        cos, sin = torch.randn(8, dim // 2), torch.randn(8, dim // 2)
        packed = 3 * width + 2 * groups * dim
        sizes = (heads, groups, chunk)

        def carry(make):
            return make(1, 2, heads, dim), make(1, 2, heads, dim), make(1, heads, dim), make(1, heads, dim)

        def cached(*shape):
            codes = torch.randint(-127, 128, shape, dtype=torch.int8)
            return codes, torch.full((*shape[:-1], -(-shape[-1] // 32)), 121, dtype=torch.uint8)

        def rat_outputs(proj, bias, *state):
            out, lse, *ends = raw.rat(proj, bias, begun, cos, sin, *sizes, 1, 3, *state)
            return out, lse, ends

        state = carry(torch.randn)
        proj, bias = torch.randn(5, packed), torch.randn(width)
        out, lse, ends = rat_outputs(proj, bias, *state)
        segments, keys = ints([0, 3, -1, 0], [3, 5, 1, 1]), (torch.zeros(5).int(), torch.arange(1, 6).int())
        q, k, v = torch.randn(5, 4, 8), torch.randn(5, 2, 8), torch.randn(5, 2, 8)
        o, log_sum = raw.attention(q, k, v, *keys, 0.3)
        x = torch.randn(5, 8)
        return {
            "attention": [(leaf(5, 4, 8), leaf(5, 2, 8), leaf(5, 2, 8), *keys, 0.3)],
            "attention_backward": [(o, None, q, k, v, o, log_sum, *keys, 0.3),
                                   (o, log_sum, q, k, v, o, log_sum, *keys, 0.3)],
            "rat": [(leaf(tokens, packed), leaf(width), table, cos, sin, *sizes, 1, 3, None, None, None, None),
                    (leaf(5, packed), leaf(width), begun, None, None, *sizes, 1, 3, *carry(leaf))],
            "rat_backward": [(proj, bias, begun, cos, sin, *sizes, *ends[:2], *state[2:], out, lse, out, None, None,
                              None, None)],
            "rat_extend_": [(proj, bias, begun, cos, sin, *sizes, torch.randn(1, 3, heads, dim),
                             torch.randn(1, 3, heads, dim), *state[2:])],
            "rat_step_cached_": [(proj, bias, steps, cos, sin, heads, groups, *cached(5, 3, heads, dim),
                                  *cached(5, 3, heads, dim), torch.randn(5, heads, dim), torch.randn(5, heads, dim))],
            "cache_store_": [(*cached(6, 2, 40), torch.randn(3, 2, 40), None, torch.tensor([5, 0, 2])),
                             (*cached(6, 2, 40), torch.randn(3, 2, 40), torch.tensor([1]), torch.tensor([4]))],
            "cache_load": [(*cached(6, 2, 40), torch.tensor([5, 5, 0]), torch.bfloat16)],
            "cache_round": [(torch.randn(3, 2, 40),)],
            "attention_cached": [(q, *cached(5, 2, 8), *cached(5, 2, 8), *keys, 0.3)],
            "gated_scan": [(leaf(5, 8), leaf(5, 8), leaf(8), segments, leaf(2, 8), 2),
                           (leaf(5, 8), leaf(5, 8), leaf(8), ints([0, 5, -1, 0]), None, 1)],
            "gated_scan_backward": [(x, x + 1, torch.randn(8), segments, torch.randn(2, 8), x, None),
                                    (x, x + 1, torch.randn(8), ints([0, 5, -1, 0]), None, x, torch.randn(1, 8))],
            "add_rms_norm": [(leaf(5, 8), leaf(5, 8), leaf(8), 1e-6, torch.float32),
                             (leaf(5, 8), None, leaf(8), 1e-6, torch.bfloat16)],
            "add_rms_norm_backward": [(x, torch.randn(8), torch.rand(5), x, x, True),
                                      (x, torch.randn(8), torch.rand(5), x, None, False)],
            "rope": [(leaf(5, 2, 8), torch.arange(5).int(), cos, sin),
                     (leaf(5, 2, 8), ints(4, 0, 1, 7, 7), cos, sin, True)],
            "gelu": [(leaf(3, 5, 8),)],
            "swiglu": [(leaf(5, 8), leaf(5, 8))],
            "sigmoid_mul": [(leaf(5, 8), leaf(5, 8))],
            "activation_backward": [(0, x, None, x), (1, x, x, x)],
            "linear_cross_entropy": [(leaf(5, 8), leaf(11, 8), torch.tensor([0, 10, -100, 3, 7]), None, True),
                                     (x, torch.randn(11, 8), torch.tensor([0, 10, -100, 3, 7]), torch.rand(5), False)],
            "quantize_rows": [(x,)],
            "packed_chunks": [(ints(0, 5, 5, 6, 11), 4)],
        }

    def test_every_operator(self):
        torch.manual_seed(3)
        cases = self.cases()
        names = {name.removeprefix("rattan::") for name in torch._C._dispatch_get_all_op_names()
                 if name.startswith("rattan::")}
        self.assertLessEqual(names, cases.keys(), "an operator without a case here")
        for name in sorted(names):
            for number, args in enumerate(cases[name]):
                with self.subTest(operator=name, case=number):
                    opcheck(getattr(raw, name).default, args)


class Functions(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(5)

    def compare(self, function, formula, *inputs):
        """Values and gradients, the formula in float64."""
        double = [x.detach().double().requires_grad_() for x in inputs]
        got, expected = function(*inputs), formula(*double)
        self.assertLess(worst(got.detach(), expected.detach()), CLOSE)
        gradient = torch.randn_like(got)
        got.backward(gradient)
        expected.backward(gradient.double())
        for i, (x, y) in enumerate(zip(inputs, double)):
            self.assertLess(worst(x.grad, y.grad), CLOSE, f"gradient of input {i}")

    def test_rat_attention(self):
        """Separate tensors, T = 11 no multiple of L = 4."""
        def formula(z, v, g, q, k, bias):
            proj = torch.cat([x.flatten(-2) for x in (z, v, g, q, k)], -1)
            return rat_reference(proj.flatten(0, 1), bias.flatten(), 2, 11, 4, 2, 4).view(2, 11, 4, 8)

        wide, narrow = [(2, 11, 4, 8)] * 3, [(2, 11, 2, 8)] * 2
        self.compare(lambda *x: ops.rat_attention(*x, chunk=4), formula, *(leaf(*s) for s in wide + narrow), leaf(4, 8))

    def test_attention(self):
        for causal, window, queries in ((True, None, 9), (True, 3, 9), (True, None, 5), (False, None, 9)):
            with self.subTest(causal=causal, window=window, queries=queries):
                at, key = torch.arange(queries).unsqueeze(1) + 9 - queries, torch.arange(9)
                seen = (key <= at) if causal else torch.ones(queries, 9, dtype=torch.bool)
                if window is not None:
                    seen &= key >= at - window

                def formula(q, k, v):
                    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
                    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(1, 2)

                self.compare(lambda q, k, v: ops.attention(q, k, v, causal=causal, window=window), formula,
                             leaf(2, queries, 4, 8), leaf(2, 9, 2, 8), leaf(2, 9, 2, 8))

    def test_gated_scan_carries_on(self):
        x, gate, bias = torch.randn(2, 10, 6), torch.randn(2, 10, 6), torch.randn(6)
        whole, last = ops.gated_scan(x, gate, bias)
        first, middle = ops.gated_scan(x[:, :4], gate[:, :4], bias)
        second, end = ops.gated_scan(x[:, 4:], gate[:, 4:], bias, initial=middle)
        torch.testing.assert_close(torch.cat((first, second), 1), whole)
        torch.testing.assert_close(end, last)

    def test_norms(self):
        self.compare(ops.rms_norm, lambda x, w: F.rms_norm(x, (8,), w, 1e-6), leaf(2, 5, 8), leaf(8))
        self.compare(lambda x, b, w: torch.cat(ops.add_rms_norm(x, b, w)),
                     lambda x, b, w: torch.cat((x + b, F.rms_norm(x + b, (8,), w, 1e-6))), leaf(2, 5, 8), leaf(2, 5, 8),
                     leaf(8))

    def test_rope(self):
        x = torch.randn(2, 9, 3, 8)
        whole = ops.rope(x)
        torch.testing.assert_close(ops.rope(x[:, 4:], offset=4), whole[:, 4:])
        turn = torch.arange(9).view(9, 1, 1) * 10000.0 ** (-torch.arange(4).double() / 4)
        turned = torch.view_as_complex(torch.stack((x[..., :4], x[..., 4:]), -1).double()) * torch.polar(
            torch.ones_like(turn), turn)
        self.assertLess(worst(whole, torch.cat((turned.real, turned.imag), -1)), CLOSE)

    def test_linear_cross_entropy(self):
        target = torch.randint(0, 11, (2, 5))
        target[0, 3] = -100
        for reduction in ("mean", "sum"):
            self.compare(lambda h, w: ops.linear_cross_entropy(h, w, target, reduction=reduction),
                         lambda h, w: F.cross_entropy((h @ w.t()).flatten(0, 1), target.flatten(), reduction=reduction),
                         leaf(2, 5, 8), leaf(11, 8))

    def test_wrong_use(self):
        z = torch.randn(2, 4, 2, 8)
        with self.assertRaisesRegex(ValueError, "one row"):
            ops.attention(z, z, z, cu_seqlens=ints(0, 4))
        with self.assertRaisesRegex(ValueError, "cu_seqlens must be integers"):
            ops.rope(z[:1], cu_seqlens=torch.tensor([0.0, 4.0]))
        with self.assertRaisesRegex(ValueError, "causal=True"):
            ops.attention(z, z, z, causal=False, window=2)
        with self.assertRaisesRegex(RuntimeError, "float32 or bfloat16, got Double"):
            ops.gelu(z.double())
        with self.assertRaisesRegex(ValueError, "multiple of n_heads"):
            nn.RatMixer(32, 5, 1)


def mixers():
    return {
        "rat": nn.RatMixer(32, 4, 2, 4), "rat without rotation": nn.RatMixer(32, 4, 2, 3, rope=False),
        "rat of one token": nn.RatMixer(32, 4, 2, 1), "attention": nn.AttentionMixer(32, 4, 2),
        "swa": nn.AttentionMixer(32, 4, window=3), "rnn": nn.RnnMixer(32, 64),
    }


def gradients(module, x, *args):
    y = module(x, *args)
    weight = torch.linspace(-1, 1, y.numel()).view_as(y)  # not all ones, whose gradients could hide a transposition
    return [y.detach(), *torch.autograd.grad((y.float() * weight).sum(), [x, *module.parameters()])]


class Modules(unittest.TestCase):
    def setUp(self):
        torch.manual_seed(11)

    def test_packed_equals_separate(self):
        """Documents of 5, 1, 7 and 9 tokens, two of them no multiple of L."""
        cu = ints(0, 5, 6, 13, 22)
        for name, mixer in mixers().items():
            with self.subTest(mixer=name):
                x = leaf(1, 22, 32)
                packed = gradients(mixer, x, cu)
                y = torch.cat([mixer(x[:, a:b]) for a, b in zip(cu.tolist(), cu.tolist()[1:])], 1)
                weight = torch.linspace(-1, 1, y.numel()).view_as(y)
                separate = [y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *mixer.parameters()])]
                for a, b in zip(packed, separate):
                    self.assertLess(worst(a, b.double()), CLOSE)

    def test_tables_of_packed_batches_follow_their_values(self):
        """A tensor that is written anew, or another one in its place, is not taken for the old one."""
        mixer, x, cu = nn.RatMixer(32, 4, 2, 4), torch.randn(1, 12, 32), ints(0, 5, 12)
        before = mixer(x, cu)
        cu[1] = 8
        torch.testing.assert_close(mixer(x, cu), mixer(x, ints(0, 8, 12)), rtol=0, atol=0)
        self.assertFalse(torch.equal(mixer(x, cu), before))

    def test_extend(self):
        """Pieces of any length, and single tokens, give what the whole sequence gives."""
        for name, mixer in mixers().items():
            x = torch.randn(3, 21, 32)
            expected = mixer(x).detach()
            for pieces in ([1] * 21, [6, 1, 5, 9], [21], [8, 8, 5]):
                with self.subTest(mixer=name, pieces=pieces):
                    state = mixer.init_state(3, 21)
                    parts = [mixer.extend(part, state) for part in x.split(pieces, 1)]
                    self.assertLess(worst(torch.cat(parts, 1), expected.double()), CLOSE)
            with self.subTest(mixer=name):
                state = mixer.init_state(3, 21)
                steps = [mixer.step(x[:, t], state) for t in range(21)]
                self.assertLess(worst(torch.stack(steps, 1), expected.double()), CLOSE)
                if name != "rnn":  # whose state has no size
                    with self.assertRaisesRegex(ValueError, "do not fit a state"):
                        mixer.extend(torch.randn(3, 16, 32), state)

    def test_compiled(self):
        """Without graph breaks, forward and backward, dense and packed: exactly what eager gives, as the operators
        are the same."""
        for name, mixer in mixers().items():
            with self.subTest(mixer=name):
                torch._dynamo.reset()
                compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
                for x, *args in ((leaf(2, 11, 32),), (leaf(1, 22, 32), ints(0, 5, 6, 13, 22))):
                    for a, b in zip(gradients(compiled, x, *args), gradients(mixer, x, *args)):
                        torch.testing.assert_close(a, b, rtol=0, atol=0)

    def test_compiled_once_for_all_lengths(self):
        torch._dynamo.reset()
        mixer, graphs = nn.RatMixer(32, 4, 2, 4), []

        def backend(graph, _):
            graphs.append(graph)
            return graph

        compiled = torch.compile(mixer, fullgraph=True, dynamic=True, backend=backend)
        for tokens in (8, 11, 13, 30):
            x = torch.randn(2, tokens, 32)
            torch.testing.assert_close(compiled(x), mixer(x), rtol=0, atol=0)
        self.assertEqual(len(graphs), 1)

    def test_autocast(self):
        """bf16 out, fp32 parameters and gradients, gate biases untouched: what a bf16 copy of the layer gives, whose
        gate bias stays fp32; the same compiled."""
        for name, mixer in mixers().items():
            with self.subTest(mixer=name):
                x = leaf(2, 11, 32)
                torch._dynamo.reset()
                compiled = torch.compile(mixer, fullgraph=True, backend="aot_eager")
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    got, traced = gradients(mixer, x), gradients(compiled, x)
                self.assertEqual(got[0].dtype, torch.bfloat16)
                half = [p.detach().bfloat16() if p.dim() == 2 else p.detach() for p in mixer.parameters()]
                expected = torch.func.functional_call(
                    mixer, dict(zip(dict(mixer.named_parameters()), half)), (x.detach().bfloat16(),))
                torch.testing.assert_close(got[0], expected, rtol=0, atol=0)
                for a, b in zip(got, traced):
                    torch.testing.assert_close(a, b, rtol=0, atol=0)
                for gradient, parameter in zip(got[2:], mixer.parameters()):
                    self.assertEqual(gradient.dtype, parameter.dtype)

    def test_autocast_of_functions(self):
        x, w = torch.randn(3, 5, 8), torch.randn(8)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for y in (ops.gelu(x), ops.swiglu(x, x), ops.sigmoid_mul(x, x), ops.rms_norm(x, w),
                      ops.rope(x.unsqueeze(2))):
                self.assertEqual(y.dtype, torch.bfloat16)
            stream, y = ops.add_rms_norm(x, x, w)
            self.assertEqual((stream.dtype, y.dtype), (torch.float32, torch.bfloat16))
            loss = ops.linear_cross_entropy(x, torch.randn(7, 8), torch.zeros(3, 5, dtype=torch.long))
            self.assertEqual(loss.dtype, torch.float32)
            mixer = nn.RatMixer(32, 4, 2, 4)
            x = torch.randn(2, 9, 32)
            state = mixer.init_state(2, 9)
            torch.testing.assert_close(mixer.extend(x, state), mixer(x), rtol=0, atol=0)
        with torch.autocast("cpu", dtype=torch.float16), self.assertRaisesRegex(RuntimeError, "dtype=torch.bfloat16"):
            ops.gelu(x)

    def test_initial_distribution(self):
        """The program's: matrices N(0, 0.02), gate biases log U(1, L - 1), or -3 where L is 1."""
        mixer = nn.RatMixer(256, 4, 2, 16)
        for weight in (mixer.in_proj.weight, mixer.out_proj.weight):
            # The deviation of n draws is off by 1 / sqrt(2 n), here 0.3 % or less; five of those.
            self.assertAlmostEqual(weight.std().item(), 0.02, delta=0.02 * 0.015)
        memory = mixer.gate_bias.exp()
        self.assertGreaterEqual(memory.min().item(), 1 - 1e-6)
        self.assertLessEqual(memory.max().item(), 15 + 1e-5)
        # The mean of 256 draws is off by 14 / sqrt(12 * 256) = 0.25; five of those.
        self.assertAlmostEqual(memory.mean().item(), 8, delta=1.3)
        self.assertTrue((nn.RatMixer(32, 4, 2, 1).gate_bias == -3).all())


if __name__ == "__main__":
    unittest.main()
