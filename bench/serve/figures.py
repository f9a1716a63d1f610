#!/usr/bin/env python3
"""Figures of the server with random weights and token-id prompts, beside what the model alone does.

  bench/serve/figures.py OUT [PART...]      chats, turn, bare, arrival; all without one

  chats    many conversations at the same time, against what their parts allow: one prompt read alone and one decoding
           step of the whole batch, measured by `rattan bench model` in the same run
  turn     the first token of a second turn against that of the first, after a long history
  bare     tokens/s of the server against bare decoding of the same batch, by turns
  arrival  time to the first token in a full batch, while a long prompt arrives and without it

Writes OUT/figures.json and prints each figure as it comes. RATTAN_PROGRAM is the program (build/release/rattan). On a
GPU: --device cuda --models recipes/paper/rat16-1.3b.toml,recipes/paper/attention-1.3b.toml --batch 256
"""

import argparse
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import stacked  # noqa: E402

root = pathlib.Path(__file__).resolve().parents[2]
program = os.environ.get("RATTAN_PROGRAM", str(root / "build" / "release" / "rattan"))


def pin(arguments, cores):
    """For subprocess: the program runs on these cores alone, if --pin asks for it."""
    return (lambda: os.sched_setaffinity(0, cores)) if arguments.pin else None


def rattan(arguments, *line, cores=(0,)):
    out = subprocess.run([program, *map(str, line), "--json"], capture_output=True, text=True,
                         preexec_fn=pin(arguments, cores))
    if out.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, line))}: {out.stderr[-2000:]}")
    return json.loads(out.stdout)


class Server:
    def __init__(self, arguments, folder, *flags):
        self.arguments, self.log, self.loads = arguments, tempfile.TemporaryFile("w+"), 0
        self.process = subprocess.Popen(
            [program, "serve", str(folder), "--port", "0", "--device", arguments.device, *arguments.threads_flags,
             *map(str, flags)], stderr=self.log, preexec_fn=pin(arguments, (0,)))

    def __enter__(self):
        began = time.monotonic()
        while self.process.poll() is None and time.monotonic() - began < 120:
            self.log.seek(0)
            if ready := re.search(r'"event":"ready","address":"([^"]*)"', self.log.read()):
                self.url = ready[1]
                return self
            time.sleep(0.02)
        self.process.kill()
        self.log.seek(0)
        raise RuntimeError("the server did not start: " + self.log.read()[-2000:])

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def load(self, **flags):
        """Every load has prompts of its own, of which nothing is known from before."""
        self.loads += 1
        flags["seed"] = self.loads
        line = [x for name, value in flags.items() for x in ([f"--{name}"] if value is True else [f"--{name}", value])]
        return rattan(self.arguments, "bench", "serve", self.url, *line, cores=(1,))

    def metric(self, name):
        text = urllib.request.urlopen(self.url + "/metrics", timeout=30).read().decode()
        return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])


def decode(arguments, folder, batch, first, count):
    """Seconds of one decoding step of the model alone, and tokens/s."""
    out = rattan(arguments, "bench", "model", folder, "--mode", "decode", "--batch", batch, "--from", first, "--count",
                 count, "--stride", max(1, count // 64), "--seconds", arguments.each, "--budget", 20, "--device",
                 arguments.device, *arguments.threads_flags)["results"][0]
    return out["seconds"] / out["steps_a_call"], out["tokens_per_second"]


def prefill(arguments, folder, tokens):
    out = rattan(arguments, "bench", "model", folder, "--mode", "prefill", "--seq", tokens, "--rows", 1, "--seconds",
                 arguments.each, "--budget", 20, "--device", arguments.device, *arguments.threads_flags)
    return out["results"][0]["seconds"]


def chats(a, folder):
    read, (step, _) = prefill(a, folder, a.prompt), decode(a, folder, a.batch, a.prompt, a.answer)
    allowed = a.answer / (read + a.answer * step / a.batch)
    out = {"prefill_seconds": read, "step_seconds": step, "allowed_tokens_per_second": allowed, "rounds": []}
    for temperature in (0, 1):
        with Server(a, folder, "--context", a.prompt + a.answer + 64, "--sequences", a.batch, *a.serve) as server:
            load = dict(concurrency=a.batch, prompt=a.prompt, answer=a.answer, temperature=temperature)
            server.load(conversations=a.batch, **{**load, "prompt": 16, "answer": 8})  # graphs and caches are made
            seen = server.load(conversations=a.rounds * a.batch, **load)
            out["rounds"].append({"temperature": temperature, "tokens_per_second": seen["tokens_per_second"],
                                  "share_of_allowed": seen["tokens_per_second"] / allowed,
                                  "first_token_seconds": seen["first_token_seconds"],
                                  "token_seconds": seen["token_seconds"]})
    return out


def turn(a, folder):
    with Server(a, folder, "--context", a.history + 1024, "--sequences", 4, *a.serve) as server:
        load = dict(concurrency=1, turns=2, turn=64, answer=8, temperature=0)
        server.load(conversations=1, **{**load, "prompt": 600})
        before = server.metric("rattan_prompt_tokens_total"), server.metric("rattan_generated_tokens_total")
        seen = server.load(conversations=a.rounds, **load, prompt=a.history)
        read = server.metric("rattan_prompt_tokens_total") - before[0]
        first, second = seen["first_token_seconds"]["p50"], seen["later_turns_first_token_seconds"]["p50"]
        return {"history": a.history, "first_turn_seconds": first, "second_turn_seconds": second,
                "share": second / first, "new_tokens": 64 + 8,
                "tokens_read_by_a_second_turn": (read - a.rounds * (a.history - 1)) / a.rounds}


def bare(a, folder):
    out = {"rounds": []}
    for _ in range(a.rounds):
        _, alone = decode(a, folder, a.batch, 1, a.answer)
        one = {"bare": alone}
        with Server(a, folder, "--context", a.answer + 64, "--sequences", a.batch, *a.serve) as server:
            load = dict(concurrency=a.batch, prompt=1, answer=a.answer)
            server.load(conversations=a.batch, **{**load, "answer": 8})
            for name, more in (("whole, greedy", {"whole": True, "temperature": 0}), ("whole", {"whole": True}),
                               ("streamed, greedy", {"temperature": 0}), ("streamed", {})):
                seen = server.load(conversations=a.turns * a.batch, **load, **more)
                one[name] = seen["tokens_per_second"] / alone
        out["rounds"].append(one)
        print("  ", one, file=sys.stderr, flush=True)
    for name in out["rounds"][0]:
        out[name] = statistics.median(r[name] for r in out["rounds"])
    return out


def arrival(a, folder):
    load = dict(prompt=128, answer=64, concurrency=32)
    flags = ("--context", a.history + 1024, "--sequences", 40, *a.serve)
    with Server(a, folder, *flags) as server:
        server.load(conversations=64, **load)
        alone = [server.load(conversations=8, **{**load, "concurrency": 1}) for _ in range(2)][-1]
        without = server.load(conversations=128, **load)
        long = subprocess.Popen([program, "bench", "serve", server.url, "--conversations", "1", "--prompt",
                                 str(a.history), "--answer", "8", "--seed", "99", "--json"], stdout=subprocess.PIPE,
                                preexec_fn=pin(a, (1,)))
        during = server.load(conversations=128, **load)
        still_reading = long.poll() is None
        long_seen = json.loads(long.communicate()[0])
    return {"one_alone": alone["first_token_seconds"], "batch_32": without["first_token_seconds"],
            "while_a_prompt_arrives": during["first_token_seconds"], "prompt": a.history,
            "prompt_still_arriving_at_the_end": still_reading,
            "the_long_prompt_seconds": long_seen["first_token_seconds"]["p50"],
            "factor": during["first_token_seconds"]["p50"] / without["first_token_seconds"]["p50"]}


PARTS = {"chats": chats, "turn": turn, "bare": bare, "arrival": arrival}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART")
    parser.add_argument("--models", default="recipes/demo.toml", help="configurations: the first one for all parts, "
                        "the others for chats")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=64, help="conversations at the same time (64)")
    parser.add_argument("--prompt", type=int, default=2048, help="chats: tokens (2048)")
    parser.add_argument("--answer", type=int, default=256, help="chats, bare: tokens (256)")
    parser.add_argument("--history", type=int, default=32768, help="turn, arrival: tokens of the long prompt (32768)")
    parser.add_argument("--rounds", type=int, default=3, help="of each comparison (3)")
    parser.add_argument("--turns", type=int, default=4, help="bare: batches of answers in a round (4)")
    parser.add_argument("--each", type=float, default=2, help="seconds a figure of the model alone (2)")
    parser.add_argument("--threads", type=int, help="of the model, on a processor")
    parser.add_argument("--pin", action="store_true", help="the server on core 0, its clients on core 1")
    parser.add_argument("--serve", default="", help="more flags of rattan serve, such as '--prefill 4096'")
    a = parser.parse_args()
    a.threads_flags = ["--threads", str(a.threads)] if a.threads else []
    a.serve = a.serve.split()
    a.out.mkdir(parents=True, exist_ok=True)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    document = {"version": version, "settings": {k: str(v) for k, v in vars(a).items()}, "figures": {}}
    with tempfile.TemporaryDirectory() as work:
        for number, config in enumerate(a.models.split(",")):
            name, began = pathlib.Path(config).stem, time.monotonic()
            folder = pathlib.Path(work) / name
            stacked.make(lambda *line: rattan(a, *line), root / config, folder)
            print(f"{name}: {time.monotonic() - began:.1f} s to make", file=sys.stderr, flush=True)
            for part in a.parts or (PARTS if number == 0 else ["chats"]):
                if number > 0 and part != "chats":
                    continue
                began = time.monotonic()
                document["figures"][f"{name} {part}"] = figure = PARTS[part](a, folder)
                print(f"{name} {part} ({time.monotonic() - began:.0f} s): {json.dumps(figure)}", flush=True)
                (a.out / "figures.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
