"""docs/python.md runs as it is written: its Python blocks, one after the other, in a fresh process's namespace."""

import functools
import os
import pathlib
import re
import tempfile
import unittest

import torch

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "python.md"


class Page(unittest.TestCase):
    def test_blocks_run(self):
        text = PAGE.read_text()
        blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
        self.assertGreaterEqual(len(blocks), 5)
        # What torch.compile makes of the graph is torch's affair and takes Python's headers, which may be missing.
        compile_all = torch.compile
        self.addCleanup(setattr, torch, "compile", compile_all)
        torch.compile = functools.partial(compile_all, backend="aot_eager")
        self.addCleanup(os.chdir, os.getcwd())
        namespace = {"__name__": "page"}
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            for block in blocks:
                line = text.count("\n", 0, block.start(1))
                exec(compile("\n" * line + block.group(1), str(PAGE), "exec"), namespace)


if __name__ == "__main__":
    unittest.main()
