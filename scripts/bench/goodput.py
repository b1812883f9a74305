#!/usr/bin/python3
# Turns the raw runs of goodput.sh into its table; standard library only. The ratio of a cell is
# the geometric mean of its pairs' ratios, with a bootstrap interval. It reports and never judges.
"""goodput.py [--json FILE] RAW

RAW  rate, loss, rtt, direction, pair, side (kernel or remora), bytes per second: one run a line

The status is 1 when a cell has no pair of runs that both succeeded.
goodput.py --self-test checks the arithmetic on known figures.
"""

import argparse
import json
import math
import random
import statistics
import sys

RESAMPLES = 10_000
SEED = 1
CONFIDENCE = 0.95


def geometric(values):
    return math.exp(statistics.fmean(map(math.log, values)))


def interval(values):
    """The percentile interval of the geometric mean; none for a single pair."""
    if len(values) < 2:
        return None
    source = random.Random(SEED)
    means = sorted(geometric(source.choices(values, k=len(values))) for _ in range(RESAMPLES))
    outside = (1 - CONFIDENCE) / 2
    return means[int(outside * (RESAMPLES - 1))], means[int((1 - outside) * (RESAMPLES - 1))]


def read(lines):
    """(rate, loss, rtt, direction) -> {pair: {side: Mbit/s}}, in the order of the lines."""
    cells = {}
    for line in lines:
        rate, loss, rtt, direction, pair, side, speed = line.rstrip("\n").split("\t")
        cell = cells.setdefault((rate, loss, rtt, direction), {})
        cell.setdefault(int(pair), {})[side] = float(speed) * 8e-6
    return cells


def summary(key, runs):
    whole = [run for run in runs.values() if run.keys() == {"kernel", "remora"}]
    result = dict(zip(("rate", "loss", "rtt", "direction"), key), pairs=len(whole))
    if whole:
        ratios = [run["remora"] / run["kernel"] for run in whole]
        result |= {
            "kernel": statistics.median(run["kernel"] for run in whole),
            "remora": statistics.median(run["remora"] for run in whole),
            "ratio": geometric(ratios),
            "interval": interval(ratios),
            "runs": whole,
        }
    return result


def report(results):
    print("Mbit/s  loss %  RTT ms  direction   kernel   remora  ratio  95 % interval  pairs")
    for result in results:
        head = f"{result['rate']:>6}  {result['loss']:>6}  {result['rtt']:>6}  {result['direction']:<9}"
        if result["pairs"] == 0:
            print(f"{head}  failed")
            continue
        low, high = result["interval"] or (math.nan, math.nan)
        print(
            f"{head} {result['kernel']:8.2f} {result['remora']:8.2f}  {result['ratio']:5.3f}"
            f"  {low:5.3f}..{high:5.3f}  {result['pairs']:5}"
        )
    ratios = [result["ratio"] for result in results if result["pairs"]]
    if ratios:
        print(f"geometric mean of {len(ratios)} cells: {geometric(ratios):.3f}")


def self_test():
    raw = [
        f"20\t1\t40\tsend\t{pair}\t{side}\t{speed}\n"
        for pair, speeds in enumerate([(1e6, 2e6), (2e6, 1e6)], 1)
        for side, speed in zip(("kernel", "remora"), speeds)
    ] + ["20\t1\t40\treceive\t1\tkernel\t1e6\n"]
    cells = read(raw)
    both = summary(("20", "1", "40", "send"), cells["20", "1", "40", "send"])
    assert both["pairs"] == 2 and abs(both["ratio"] - 1) < 1e-9, both
    assert both["kernel"] == 12 and both["interval"] == (0.5, 2.0), both
    assert summary(("20", "1", "40", "receive"), cells["20", "1", "40", "receive"])["pairs"] == 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("raw")
    arguments = parser.parse_args()
    with open(arguments.raw, encoding="utf-8") as file:
        cells = read(file)
    results = [summary(key, runs) for key, runs in cells.items()]
    report(results)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
    if not results or any(result["pairs"] == 0 for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
