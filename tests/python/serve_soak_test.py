"""The soaks of bench/serve in about a minute: the same properties, over a shorter time. Latencies are not judged."""

import json
import os
import pathlib
import subprocess
import sys
import unittest

SOAK = pathlib.Path(__file__).resolve().parents[2] / "bench" / "serve" / "soak.py"


class Soak(unittest.TestCase):
    def soak(self, part, *flags):
        out = subprocess.run([sys.executable, str(SOAK), part, "--short", *flags], capture_output=True, text=True,
                             env=os.environ, timeout=280)
        self.assertEqual(out.returncode, 0, out.stderr[-6000:])
        return json.loads(out.stdout)["parts"][part]["figures"]

    def test_a_storm_of_bad_clients(self):
        figures = self.soak("storm")
        self.assertEqual(sum(figures["by_kind"].values()), 350, "warm-up and storm")
        self.assertGreater(figures["cancelled"], 10, "clients that leave cancel their requests")

    def test_a_mixed_trace(self):
        figures = self.soak("trace")
        self.assertGreater(figures["requests"], 20)
        self.assertGreater(figures["reused_tokens"], 0)

    def test_thousands_of_idle_connections(self):
        self.assertLess(self.soak("idle")["within the limit"]["kib_a_connection"], 16)

    def test_a_property_that_fails_is_told(self):
        out = subprocess.run([sys.executable, str(SOAK), "storm", "--short", "--requests", "50", "--kinds", "5",
                              "--most-growth", "-1000"], capture_output=True, text=True, env=os.environ, timeout=200)
        self.assertEqual(out.returncode, 1, out.stderr[-3000:])
        self.assertIn("FAILS: memory is flat", out.stderr)


if __name__ == "__main__":
    unittest.main()
