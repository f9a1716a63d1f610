"""The nginx configuration and the systemd unit of docs/serving.md, as they stand there, with this machine's places put in.

Each test is skipped where its program (nginx with openssl, systemd-analyze) is missing.
"""

import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import unittest

from served_model import Server

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "serving.md"


def block(language):
    [text] = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.S)
    return text


def put(text, *pairs):
    for old, new in pairs:
        assert text.count(old) == 1, f"docs/serving.md should hold {old!r} once"
        text = text.replace(old, new)
    return text


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


class Documented(unittest.TestCase):
    @unittest.skipUnless(shutil.which("nginx") and shutil.which("openssl"), "nginx or openssl is missing")
    def test_the_proxy_passes_tls_and_events_as_they_come(self):
        with tempfile.TemporaryDirectory() as folder, Server("--stream-ms", "0") as server:
            root, port = pathlib.Path(folder), free_port()
            subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj",
                            "/CN=models.example", "-addext", "subjectAltName=DNS:models.example", "-keyout",
                            root / "key", "-out", root / "pem"], check=True, capture_output=True)
            proxy = put(block("nginx"), ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
                        ("http://127.0.0.1:8000", server.url), ("/etc/ssl/models.example.pem", str(root / "pem")),
                        ("/etc/ssl/private/models.example.key", str(root / "key")))
            temporary = "".join(f"{name}_temp_path {root}/{name};\n" for name in
                                ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
            (root / "nginx.conf").write_text(
                f"daemon off;\npid {root}/pid;\nerror_log {root}/log;\nevents {{}}\n"
                f"http {{\naccess_log off;\n{temporary}{proxy}}}\n")
            nginx = subprocess.Popen(["nginx", "-p", folder, "-c", str(root / "nginx.conf")], stderr=subprocess.PIPE)
            try:
                self.use(port, ssl.create_default_context(cafile=str(root / "pem")), nginx)
            finally:
                nginx.terminate()
                nginx.communicate()

    def use(self, port, context, nginx):
        for _ in range(100):
            try:
                raw = socket.create_connection(("127.0.0.1", port), timeout=30)
                break
            except ConnectionRefusedError:
                self.assertIsNone(nginx.poll(), "nginx did not start")
                time.sleep(0.05)
        body = json.dumps({"prompt": "a", "max_tokens": 400, "stream": True, "ignore_eos": True}).encode()
        with context.wrap_socket(raw, server_hostname="models.example") as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: models.example\r\nContent-Type: application/json\r\n"
                      b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            pieces = []
            while piece := s.recv(1 << 16):
                pieces.append(piece)
        whole = b"".join(pieces)
        self.assertTrue(whole.startswith(b"HTTP/1.1 200"), whole[:300])
        self.assertIn(b"data: [DONE]", whole)
        self.assertNotIn(b"[DONE]", pieces[0], "the first events came before the last")
        self.assertGreater(len(pieces), 5, "events are passed on one by one")

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is missing")
    def test_the_unit_is_one(self):
        with tempfile.TemporaryDirectory() as folder:
            unit = pathlib.Path(folder) / "rattan.service"
            unit.write_text(put(block("ini"), ("/opt/rattan/bin/rattan", os.environ["RATTAN_PROGRAM"])))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
            mine = [line for line in done.stderr.splitlines() if "rattan.service" in line]
            self.assertEqual((done.returncode, mine), (0, []), done.stderr)
            flags = re.search(r"ExecStart=\S+ (.*)", unit.read_text())[1].split()
            self.assertEqual(flags[0], "serve")
            told = subprocess.run([os.environ["RATTAN_PROGRAM"], "serve", "--help"], capture_output=True, text=True).stdout
            for flag in flags:
                self.assertTrue(not flag.startswith("--") or flag in told, f"the unit uses {flag}, which is unknown")


if __name__ == "__main__":
    unittest.main()
