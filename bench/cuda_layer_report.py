#!/usr/bin/env python3
"""Joins the JSON files of bench/cuda_layer.sh to FOLDER/h100-layer.json and plots time against T (log-log) for training
and prefill.
    bench/cuda_layer_report.py FOLDER [OUT (FOLDER)]
"""
import json
import math
import pathlib
import sys

COLORS = ("#0072b2", "#d55e00", "#009e73", "#7f7f7f")
NAMES = {"rat:16": "RAT, L = 16", "attention:torch": "attention (cuDNN)", "rnn": "gated RNN", "products": "products alone"}
LEFT, TOP, WIDTH, HEIGHT = 62, 44, 380, 250
STYLE = ("<style>svg{color:#222;background:#fff}@media(prefers-color-scheme:dark){svg{color:#ddd;background:#181a1b}}"
         "@media print{svg{color:#000;background:#fff}}</style>")


def points_of(runs: dict, mode: str) -> dict:
    points = {}
    for name in (mode, mode + "-long"):
        for row in runs.get(name, {"rows": []})["rows"]:
            if row["mixer"] in NAMES:
                points.setdefault(row["mixer"], {})[row["tokens"]] = 1e3 * row["seconds"]
    return {mixer: sorted(points[mixer].items()) for mixer in NAMES if mixer in points}


def decades(low: float, high: float) -> list:
    steps = [m * 10.0 ** e for e in range(-3, 7) for m in (1, 2, 5)]
    return [s for s in steps if low <= s <= high]


def plot(points: dict, title: str) -> str:
    xs = [x for series in points.values() for x, _ in series]
    ys = [y for series in points.values() for _, y in series]
    x0, x1, y0, y1 = math.log(min(xs)), math.log(max(xs)), math.log(0.85 * min(ys)), math.log(1.2 * max(ys))
    at_x = lambda x: LEFT + WIDTH * (math.log(x) - x0) / (x1 - x0)
    at_y = lambda y: TOP + HEIGHT * (1 - (math.log(y) - y0) / (y1 - y0))
    out = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 600 340' role='img' aria-label='{title}' "
           "font-family='system-ui,sans-serif' font-size='13' fill='currentColor'>", STYLE,
           f"<text x='8' y='20' font-weight='600'>{title}</text>"]
    grid = "stroke='currentColor' stroke-opacity='.15'"
    for y in decades(math.exp(y0), math.exp(y1)):
        out.append(f"<path {grid} d='M{LEFT} {at_y(y):.1f}h{WIDTH}'/>"
                   f"<text x='{LEFT - 6}' y='{at_y(y) + 4:.1f}' text-anchor='end'>{y:g}</text>")
    for x in sorted(set(xs)):
        out.append(f"<path {grid} d='M{at_x(x):.1f} {TOP}v{HEIGHT}'/>"
                   f"<text x='{at_x(x):.1f}' y='{TOP + HEIGHT + 18}' text-anchor='middle'>{x // 1024}K</text>")
    out.append(f"<text x='{LEFT + WIDTH / 2}' y='{TOP + HEIGHT + 38}' text-anchor='middle'>T, tokens of a sequence</text>"
               f"<text x='8' y='{TOP - 8}'>ms</text>")
    for color, (mixer, series) in zip(COLORS, points.items()):
        path = "L".join(f"{at_x(x):.1f} {at_y(y):.1f}" for x, y in series)
        out.append(f"<path fill='none' stroke='{color}' stroke-width='2' d='M{path}'/>")
        out += [f"<circle cx='{at_x(x):.1f}' cy='{at_y(y):.1f}' r='3.5' fill='{color}'/>" for x, y in series]
        x, y = series[-1]
        out.append(f"<text x='{at_x(x) + 8:.1f}' y='{at_y(y) + 4:.1f}' fill='{color}'>{NAMES[mixer]}</text>")
    return "\n".join(out) + "\n</svg>\n"


def main() -> None:
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[-1])
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json")) if path.stem != "h100-layer"}
    (out / "h100-layer.json").write_text(json.dumps({"runs": runs}, indent=1) + "\n")
    for mode, title in (("train", "One layer, training, 262,144 tokens"), ("prefill", "One layer, prefill, 262,144 tokens")):
        (out / f"h100-layer-{mode}.svg").write_text(plot(points_of(runs, mode), title))


if __name__ == "__main__":
    main()
