"""schemathesis asks a running server for what its OpenAPI document says, and for what it forbids: nothing that is valid
makes the server fail, nothing that is not is accepted, and every answer has one of the statuses and forms it names.

Skipped where schemathesis is not installed. To run it:
    .venv/bin/pip install schemathesis && ./dev test serve_schema
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

if importlib.util.find_spec("schemathesis") is None:
    print(__doc__)
    sys.exit(77)

from served_model import Server  # noqa: E402


class Schema(unittest.TestCase):
    def test_the_document_is_kept_to(self):
        # A document cannot say everything: a valid regular expression may still be one that is not supported.
        with tempfile.TemporaryDirectory() as folder, Server() as server:
            done = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "run", server.url + "/openapi.json", "--checks", "all",
                 "--exclude-checks", "positive_data_acceptance", "--phases", "examples,coverage,fuzzing",
                 "--max-examples", os.environ.get("RATTAN_SCHEMA_EXAMPLES", "25"), "--seed", "1", "--no-color",
                 "--continue-on-failure"],
                capture_output=True, text=True, cwd=folder)
            self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])
            self.assertIsNone(server.process.poll(), "the server still runs")
            self.assertIn("10 selected / 10 total", done.stdout)
            self.assertFalse([line for line in server.log if line["level"] == "error"])


if __name__ == "__main__":
    unittest.main()
