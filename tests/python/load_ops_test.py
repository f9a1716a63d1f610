"""The operators of librattan_ops.so load into a Python process as torch operators."""

import os
import unittest

import torch

LIBRARY = os.environ["RATTAN_OPS_LIBRARY"]


class LoadOps(unittest.TestCase):
    def test_library_is_loaded(self):
        torch.ops.load_library(LIBRARY)
        self.assertIn(LIBRARY, torch.ops.loaded_libraries)

    def test_one_libtorch_in_the_process(self):
        """A second copy of libtorch would have a second, empty table of operators."""
        torch.ops.load_library(LIBRARY)
        with open("/proc/self/maps") as maps:
            copies = {line.split(maxsplit=5)[5].strip() for line in maps if "/libtorch_cpu.so" in line}
        self.assertEqual(len(copies), 1, copies)

    def test_one_openmp_runtime_in_the_process(self):
        """Two thread pools that spin on the same cores halve the speed of both."""
        torch.ops.load_library(LIBRARY)
        torch.ones(100_000).exp().sum()
        with open("/proc/self/maps") as maps:
            copies = {line.split(maxsplit=5)[5].strip() for line in maps if "/libgomp" in line}
        self.assertLessEqual(len(copies), 1, copies)


if __name__ == "__main__":
    unittest.main()
