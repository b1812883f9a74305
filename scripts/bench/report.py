#!/usr/bin/python3
# Turns the raw figures of bench.sh into its table and its JSON; standard library only. A row's
# ratio is the median of the ratios of its pairs of runs. It reports and never judges: what a
# ratio should be is left to the reader.
"""report.py [--json FILE] [--points FILE] ROWS RAW CIRCUMSTANCES [ROW...]

ROWS           bench/rows.tsv
RAW            case, pair, side (a or b), name, value: one figure a line, tabs between
CIRCUMSTANCES  name, a space, value
ROW            rows to show (all)
--points FILE  for remora-plot: row, which way is better, ratio, its interval, its least and
               most, a row a line, tabs between

The status is 1 when a row has no pair of runs that both succeeded.

report.py --self-test checks the arithmetic on known figures.
"""

import argparse
import json
import random
import statistics
import sys

# Figures come in seconds, bytes and nothing; the table shows them in the row's unit.
SCALES = {
    ("bytes_per_second", "Gbit/s"): 8e-9,
    ("wall_seconds", "ms"): 1e3,
}
# Enough that the interval's ends do not move in the digits shown; the seed makes the same
# figures give the same table.
RESAMPLES = 10_000
SEED = 1
CONFIDENCE = 0.95


def bootstrap_interval(values):
    """The percentile interval of the median, by drawing as many values with replacement."""
    if len(values) < 2:
        return None
    source = random.Random(SEED)
    medians = sorted(
        statistics.median(source.choices(values, k=len(values))) for _ in range(RESAMPLES)
    )
    outside = (1 - CONFIDENCE) / 2
    return (
        medians[int(outside * (RESAMPLES - 1))],
        medians[int((1 - outside) * (RESAMPLES - 1))],
    )


def read_rows(path):
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            line = line.rstrip("\n")
            if line and not line.startswith("#"):
                name, case, figure, unit, better, text = line.split("\t")
                rows.append(
                    {
                        "row": name,
                        "case": case,
                        "figure": figure,
                        "unit": unit,
                        "better": better,
                        "what": text,
                    }
                )
    return rows


def read_raw(lines):
    """(case, pair, side) -> {name: value}, and the errors as (case, pair, side, text)."""
    runs, errors = {}, []
    for line in lines:
        case, pair, side, name, value = line.rstrip("\n").split("\t", 4)
        if name == "error":
            errors.append(
                {"case": case, "pair": int(pair), "side": side, "error": value}
            )
        else:
            runs.setdefault((case, int(pair), side), {})[name] = float(value)
    return runs, errors


def summary(values):
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def measure(row, runs):
    """Fills in the row's figures from the pairs of which both runs gave one."""
    scale = SCALES.get((row["figure"], row["unit"]), 1)
    pairs = sorted({pair for case, pair, _ in runs if case == row["case"]})
    sides = {"a": [], "b": []}
    extras = []
    for pair in pairs:
        both = {
            side: runs.get((row["case"], pair, side), {}) for side in ("a", "b")
        }
        if all(row["figure"] in figures for figures in both.values()):
            for side, figures in both.items():
                sides[side].append(figures[row["figure"]] * scale)
            extras.append(both)
    result = dict(row, pairs=len(sides["a"]))
    if not sides["a"]:
        # One side failed throughout; what the other gave is worth showing.
        for (case, _, side), figures in sorted(runs.items()):
            if case == row["case"] and row["figure"] in figures:
                sides[side].append(figures[row["figure"]] * scale)
    for side, values in sides.items():
        if values:
            result[side] = summary(values)
    if result["pairs"]:
        # A figure at or below zero (memory, on a machine at work) has no ratio.
        if min(sides["a"]) > 0:
            ratios = [b / a for a, b in zip(sides["a"], sides["b"])]
            result["ratio"] = dict(summary(ratios), interval=bootstrap_interval(ratios))
    result["figures"] = extras
    return result


def short(value):
    """Four digits that count, and no exponent."""
    if value == 0:
        return "0"
    digits = 0
    while abs(value) * 10**digits < 1000 and digits < 6:
        digits += 1
    return f"{value:.{digits}f}"


def span(low, high):
    return f"{low}..{high}"


def ratio_text(value):
    return f"{value:.3f}"


def cells(result, wanted_pairs):
    pairs = str(result["pairs"])
    if result["pairs"] < wanted_pairs:
        pairs += f" of {wanted_pairs}"
    head = [result["row"], result["unit"], result["better"]]
    line = head + ["failed", ""]
    if "a" in result:
        a = result["a"]
        line = head + [short(a["median"]), span(short(a["min"]), short(a["max"]))]
    line.append(short(result["b"]["median"]) if "b" in result else "failed")
    if "ratio" not in result:
        return line + ["none", "", "", pairs]
    ratio = result["ratio"]
    interval = "one pair"
    if ratio["interval"]:
        interval = span(*map(ratio_text, ratio["interval"]))
    spread = span(ratio_text(ratio["min"]), ratio_text(ratio["max"]))
    return line + [ratio_text(ratio["median"]), interval, spread, pairs]


def table(lines):
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    left = {0, 1, 2}
    for line in lines:
        shown = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        )
        yield "  ".join(shown).rstrip()


def report(results, circumstances, errors):
    other = circumstances["against"]
    name = other if other != "kernel" else "again"
    print(f"{other} against the kernel's own stack, {circumstances['date']}, commit {circumstances['commit']}")
    print(f"{circumstances['cpus']} CPUs ({circumstances['processor']}), Linux {circumstances['linux']}")
    print(f"pinning: {circumstances['pinning']}")
    print(
        f"load average {circumstances['load']} before, {circumstances['load_after']} after;"
        f" library: {circumstances['library']}"
    )
    print(
        f"{circumstances['pairs']} pairs of runs, kernel first, {circumstances['seconds']} s a run,"
        f" MTU {circumstances['mtu']}; ratio = {other}/kernel of each pair: median, interval, min..max"
    )
    print()
    lines = [
        [
            "row", "unit", "better", "kernel", "min..max", name,
            "ratio", f"{CONFIDENCE:.0%} of median", "min..max", "pairs",
        ]
    ]
    lines += [cells(result, int(circumstances["pairs"])) for result in results]
    for line in table(lines):
        print(line)
    last = {}
    for error in errors:
        last[error["case"], error["side"]] = error["error"]
    for (case, side), text in last.items():
        print(f"failed: {case}, {'kernel' if side == 'a' else other}: {text}")


def points(results):
    for result in results:
        if "ratio" in result:
            ratio = result["ratio"]
            low, high = ratio["interval"] or (ratio["min"], ratio["max"])
            numbers = (ratio["median"], low, high, ratio["min"], ratio["max"])
            yield "\t".join([result["row"], result["better"], *map(repr, numbers)]) + "\n"


def self_test():
    raw = []
    for pair, (a, b) in enumerate([(10, 5), (20, 12), (10, 8), (10, 6), (10, 6)], 1):
        raw += [f"c\t{pair}\ta\tx\t{a}", f"c\t{pair}\tb\tx\t{b}"]
    raw += ["c\t6\ta\tx\t10", "c\t6\tb\terror\tstatus 1: no\tanswer"]
    runs, errors = read_raw(raw)
    row = {"row": "r", "case": "c", "figure": "x", "unit": "us", "better": "lower", "what": ""}
    result = measure(row, runs)
    assert result["pairs"] == 5, result
    assert result["a"]["median"] == 10 and result["b"]["median"] == 6, result
    assert result["ratio"]["median"] == 0.6, result
    assert (result["ratio"]["min"], result["ratio"]["max"]) == (0.5, 0.8), result
    low, high = result["ratio"]["interval"]
    assert list(points([result])) == [f"r\tlower\t0.6\t{low}\t{high}\t0.5\t0.8\n"]
    assert 0.5 <= low <= 0.6 <= high <= 0.8, result
    assert errors[0]["error"] == "status 1: no\tanswer", errors
    assert measure(dict(row, case="none"), runs)["pairs"] == 0
    alone = measure(row, {("c", 1, "a"): {"x": 4.0}})
    assert alone["pairs"] == 0 and alone["a"]["median"] == 4 and "b" not in alone, alone
    assert cells(alone, 1)[3:7] == ["4.000", "4.000..4.000", "failed", "none"], cells(alone, 1)
    assert bootstrap_interval([1.0]) is None
    assert bootstrap_interval([2.0] * 9) == (2.0, 2.0)
    assert [short(v) for v in (0, 12345.6, 12.34567, 0.0123456)] == ["0", "12346", "12.35", "0.01235"]


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json")
    parser.add_argument("--points")
    parser.add_argument("rows")
    parser.add_argument("raw")
    parser.add_argument("circumstances")
    parser.add_argument("row", nargs="*")
    arguments = parser.parse_args()
    with open(arguments.circumstances, encoding="utf-8") as file:
        circumstances = dict(line.rstrip("\n").split(" ", 1) for line in file)
    with open(arguments.raw, encoding="utf-8") as file:
        runs, errors = read_raw(file)
    results = [
        measure(row, runs)
        for row in read_rows(arguments.rows)
        if not arguments.row or row["row"] in arguments.row
    ]
    report(results, circumstances, errors)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(
                {"circumstances": circumstances, "rows": results, "errors": errors}, file, indent=1
            )
            file.write("\n")
    if arguments.points:
        with open(arguments.points, "w", encoding="utf-8") as file:
            file.writelines(points(results))
    if any(result["pairs"] == 0 for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
