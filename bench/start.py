#!/usr/bin/env python3
"""Start to first token: how long after its start a program gives the first byte of its answer.

    bench/start.py MODEL [--program build/release/rattan] [--runs 20]

`generate` and `chat` (over a pipe) until the first byte on stdout; `serve` until /health says ready and until the first
event of a streamed completion; `--version`, which loads the libraries and nothing else, beside them. By turns, so that
a machine that gets busier is no one's disadvantage. Prints one JSON document: medians, lowest and highest, in seconds.
"""

import argparse
import http.client
import json
import os
import statistics
import subprocess
import tempfile
import time

PROMPT = "And it came to pass"


def first_byte(arguments, text=b""):
    began = time.monotonic()
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdin.write(text)
    process.stdin.flush()
    said = os.read(process.stdout.fileno(), 1)
    seconds = time.monotonic() - began
    process.kill()
    process.communicate()
    if not said:
        raise SystemExit(f"no answer from {' '.join(arguments)}")
    return seconds


def address(log):
    for line in open(log):
        if line.startswith("{") and json.loads(line)["event"] == "ready":
            return json.loads(line)["address"].removeprefix("http://")
    return None


def serve(program, model):
    """Seconds to readiness and to the first streamed token."""
    with tempfile.NamedTemporaryFile() as log:
        began = time.monotonic()
        process = subprocess.Popen([program, "serve", model, "--port", "0"], stderr=log)
        try:
            while (where := address(log.name)) is None:
                if process.poll() is not None or time.monotonic() - began > 60:
                    raise SystemExit("the server did not start: " + open(log.name).read())
                time.sleep(0.002)
            client = http.client.HTTPConnection(where, timeout=60)
            client.request("GET", "/health")
            reply = client.getresponse()
            reply.read()
            if reply.status != 200:
                raise SystemExit(f"/health says {reply.status} of a server that calls itself ready")
            ready = time.monotonic() - began
            body = json.dumps({"prompt": PROMPT, "max_tokens": 16, "stream": True, "ignore_eos": True})
            client.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            if not client.getresponse().read(6).startswith(b"data:"):
                raise SystemExit("no event came")
            return ready, time.monotonic() - began
        finally:
            process.kill()
            process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--program", default="build/release/rattan")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    program, model = options.program, options.model
    times = {}

    def add(name, seconds):
        times.setdefault(name, []).append(seconds)

    for _ in range(options.runs + 1):  # the first one fills the file cache and is left out
        add("libraries alone", first_byte([program, "--version"]))
        add("generate", first_byte([program, "generate", model, "--prompt", PROMPT, "--ignore-end"]))
        add("chat", first_byte([program, "chat", model], PROMPT.encode() + b"\n"))
        ready, first = serve(program, model)
        add("serve: ready", ready)
        add("serve: first token", first)
    print(json.dumps({name: {"median": round(statistics.median(all_[1:]), 4), "lowest": round(min(all_[1:]), 4),
                             "highest": round(max(all_[1:]), 4)} for name, all_ in times.items()}, indent=2))


if __name__ == "__main__":
    main()
