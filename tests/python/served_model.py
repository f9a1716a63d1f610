"""A model folder with fresh weights and `rattan serve` on it, for the tests that talk to a running server."""

import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
import urllib.request

CONFIG = """
[model]
vocab_size = 257
d_model = 48
n_layers = 2
pattern = ["rat", "local"]
init_std = 0.3
context = 512
[mixers.rat]
type = "rat"
n_heads = 4
n_groups = 2
chunk = 4
[mixers.local]
type = "swa"
n_heads = 4
window = 8
"""


class Server:
    """Runs while the `with` block does; `url` has no slash at its end, `log` is what the server wrote, line by line."""

    def __init__(self, *flags):
        self.program = os.environ["RATTAN_PROGRAM"]
        self.folder = tempfile.TemporaryDirectory()
        root = pathlib.Path(self.folder.name)
        (root / "model.toml").write_text(CONFIG)
        subprocess.run(
            [self.program, "init", str(root / "model.toml"), "--out", str(root / "model"), "--tokenizer", "bytes"],
            check=True, capture_output=True)
        self.model = root / "model"
        (root / "states").mkdir()
        self.log_path = root / "log"
        self.log_file = open(self.log_path, "w")
        self.process = subprocess.Popen(
            [self.program, "serve", str(self.model), "--port", "0", "--name", "tiny", "--strict", "--threads", "1",
             "--state-folder", str(root / "states"), *flags],
            stderr=self.log_file)

    @property
    def log(self):
        return [json.loads(line) for line in self.log_path.read_text().splitlines() if line.startswith("{")]

    def __enter__(self):
        for _ in range(600):
            ready = [line for line in self.log if line["event"] == "ready"]
            if ready:
                self.url = ready[0]["address"]
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        self.process.kill()
        raise RuntimeError("the server did not start:\n" + self.log_path.read_text())

    def get(self, path):
        return urllib.request.urlopen(self.url + path, timeout=30).read().decode()

    def post(self, path, body):
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(request, timeout=60))

    def stop(self):
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        self.log_file.close()
        self.folder.cleanup()
