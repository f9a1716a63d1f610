#!/usr/bin/env python3
"""Turns the JSON files of bench/cpu_layer.sh into FOLDER/cpu-layer.json and a table beside the targets."""
import json
import pathlib
import re
import statistics
import subprocess
import sys

TYPES = ("fp32", "bf16")


def load(folder: pathlib.Path, name: str) -> dict | None:
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def rows_of(report: dict | None) -> dict:
    return {row["mixer"]: row for row in report["rows"]} if report else {}


def against(report: dict | None, slow: str, fast: str = "rat:16") -> dict | None:
    """Ratio of the medians, with the bounds that the fastest and slowest calls give."""
    rows = rows_of(report)
    if slow not in rows or fast not in rows:
        return None
    a, b = rows[slow], rows[fast]
    return {"ratio": a["seconds"] / b["seconds"], "low": a["seconds_low"] / b["seconds_high"],
            "high": a["seconds_high"] / b["seconds_low"], "seconds": [b["seconds"], a["seconds"]]}


def against_eager(folder: pathlib.Path, dtype: str) -> dict | None:
    eager, rat = [], []
    for path in sorted(folder.glob(f"eager-[0-9]-{dtype}.json")):
        eager.append(json.loads(path.read_text())["seconds"])
        turn = re.search(r"eager-(\d)", path.name).group(1)
        rat.append(rows_of(load(folder, f"eager-rat-{turn}-{dtype}"))["rat:16"]["seconds"])
    if not eager:
        return None
    a, b = statistics.median(eager), statistics.median(rat)
    return {"ratio": a / b, "low": min(eager) / max(rat), "high": max(eager) / min(rat), "seconds": [b, a]}


def outside(report: dict | None) -> dict | None:
    rows = rows_of(report)
    if "products" not in rows:
        return None
    products, rat = rows["products"], rows["rat:16"]
    return {"share": rat["outside_products"], "seconds": [products["seconds"], rat["seconds"]]}


def measured(folder: pathlib.Path) -> list:
    lines = [("train, T=8,192: attention:torch / rat:16", ("3.5x", "6x"), "train-8k", "attention:torch"),
             ("train, T=32,768: attention:torch / rat:16", ("7x", "10x"), "train-32k", "attention:torch"),
             ("train, T=2,048, batch 4: eager PyTorch RAT / rat:16", ("2.4x", "3x"), None, "eager"),
             ("decode at 16,384, batch 8: attention / rat:16", ("10x", "10x"), "decode", "attention"),
             ("decode at 16,384, batch 8: attention:torch / rat:16", ("10x", "10x"), "decode", "attention:torch"),
             ("prefill, T=8,192: share outside matrix products", ("35 %", ""), "prefill", "products")]
    out = []
    for what, targets, name, slow in lines:
        for dtype, target in zip(TYPES, targets):
            report = load(folder, f"{name}-{dtype}") if name else None
            value = (against_eager(folder, dtype) if slow == "eager" else
                     outside(report) if slow == "products" else against(report, slow))
            out.append({"what": what, "dtype": dtype, "target": target, "measured": value})
    return out


def text_of(value: dict | None) -> str:
    if value is None:
        return "not measured"
    times = " against ".join(f"{1e3 * s:.3g} ms" if s < 1 else f"{s:.3g} s" for s in value["seconds"])
    if "share" in value:
        return f"{100 * value['share']:.0f} % ({times})"
    return f"{value['ratio']:.2f}x, {value['low']:.2f} to {value['high']:.2f} ({times})"


def processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def main() -> None:
    folder = pathlib.Path(sys.argv[1])
    lines = measured(folder)
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*-fp32.json"))}
    runs |= {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*-bf16.json"))}
    import torch
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    result = {"processor": processor(), "cores": torch.get_num_threads(), "torch": torch.__version__, "commit": commit,
              "lines": lines, "runs": runs}
    (folder / "cpu-layer.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"{result['processor']}, {result['cores']} cores, torch {result['torch']}, commit {commit}\n")
    print("| what | type | target | measured: ratio, bounds (times) |\n| --- | --- | --- | --- |")
    for line in lines:
        print(f"| {line['what']} | {line['dtype']} | {line['target']} | {text_of(line['measured'])} |")


if __name__ == "__main__":
    main()
