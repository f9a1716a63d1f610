#!/usr/bin/env python3
"""Soaks of the server: what must hold for hours is tried for minutes.

  bench/serve/soak.py [PART...]      storm, trace, idle; all without one

Prints one JSON document and, on stderr, each property as it is seen. Exit code 1 if one fails. RATTAN_PROGRAM is the
program (build/release/rattan). --short takes about a minute; times are told then, but not judged.
"""

import argparse
import asyncio
import importlib
import json
import os
import pathlib
import platform
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(root / "tests" / "python")]

import served_model  # noqa: E402
import watch  # noqa: E402

PARTS = ("storm", "trace", "idle")


class Soaked(served_model.Server):
    """`endpoint` for sockets; `exit_code` after the block."""

    def __enter__(self):
        super().__enter__()
        host, port = self.url.removeprefix("http://").split(":")
        self.endpoint = host, int(port)
        return self

    def __exit__(self, *error):
        self.exit_code = self.process.poll()
        if self.exit_code is None:
            self.exit_code = self.stop()
        elif self.exit_code != 0:
            print(self.log_path.read_text()[-4000:], file=sys.stderr)
        super().__exit__(*error)


def arguments_of(line):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help="storm, trace, idle")
    parser.add_argument("--short", action="store_true", help="each part in about 20 seconds; latency is not judged")
    parser.add_argument("--seed", type=int, default=1, help="decides every request (1)")
    parser.add_argument("--requests", type=int, help="storm: how many (2000; short: 300)")
    parser.add_argument("--clients", type=int, default=16, help="storm: at the same time (16)")
    parser.add_argument("--kinds", type=int, default=60, help="storm: different good requests (60)")
    parser.add_argument("--seconds", type=float, help="trace: how long (900; short: 15)")
    parser.add_argument("--rate", type=float, default=8, help="trace: arrivals a second (8)")
    parser.add_argument("--connections", type=int, help="idle: how many (10000; short: 5000)")
    parser.add_argument("--most-growth", type=float,
                        help="MiB that memory may rise over the last half (2; short: 4, since caches still fill)")
    parser.add_argument("--any-latency", action="store_true", help="tell latencies, do not judge them")
    parser.add_argument("--any-memory", action="store_true", help="the same for memory: for sanitizers")
    parser.add_argument("--out", type=pathlib.Path, help="the JSON document goes there, too")
    a = parser.parse_args(line)
    a.parts = a.parts or list(PARTS)
    a.any_latency = a.any_latency or a.short
    if a.most_growth is None:
        a.most_growth = 4 if a.short else 2
    a.requests = a.requests or (300 if a.short else 2000)
    a.seconds = a.seconds or (15 if a.short else 900)
    a.connections = a.connections or (5000 if a.short else 10000)
    return a


def main(line=None):
    arguments = arguments_of(line)
    os.environ.setdefault("RATTAN_PROGRAM", str(root / "build" / "release" / "rattan"))
    version = subprocess.run([os.environ["RATTAN_PROGRAM"], "--version"], capture_output=True, text=True, check=True)
    document = {"version": version.stdout.strip(), "machine": f"{os.cpu_count()} CPUs, {platform.platform()}",
                "seed": arguments.seed, "parts": {}}
    holds = True
    for part in arguments.parts:
        properties = watch.Properties(part)
        figures = asyncio.run(importlib.import_module(part).soak(arguments, properties, Soaked))
        document["parts"][part] = {"figures": figures, "properties": properties.all}
        holds = holds and all(p["holds"] for p in properties.all)
    text = json.dumps(document, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(f"seed {arguments.seed}: " + ("all properties hold" if holds else "SOME PROPERTIES FAIL"), file=sys.stderr)
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
