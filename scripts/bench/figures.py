#!/usr/bin/python3
# Reads the figures of bench.sh's rows out of what programs of others print; standard library only.
"""figures.py iperf3|redis|wrk FILE: prints a name and a number a line.

figures.py --self-test checks the readers on known output.
"""

import csv
import json
import re
import sys

UNITS = {"us": 1.0, "ms": 1e3, "s": 1e6, "m": 60e6}


def iperf3(text):
    """The receiver's count, which data still in a buffer is not part of."""
    end = json.loads(text)["end"]
    received = end["sum_received"]
    gigabytes = received["bytes"] / 1e9
    percent = end["cpu_utilization_percent"]["host_total"]
    return {
        "bytes_per_second": received["bits_per_second"] / 8,
        "own_seconds_per_gigabyte": percent / 100 * received["seconds"] / gigabytes,
    }


def redis(text):
    """redis-benchmark --csv: a line of names, then one line a test."""
    rows = list(csv.DictReader(line for line in text.splitlines() if line.startswith('"')))
    return {
        "per_second": float(rows[-1]["rps"]),
        "p50": float(rows[-1]["p50_latency_ms"]) * 1e3,
        "p99": float(rows[-1]["p99_latency_ms"]) * 1e3,
    }


def microseconds(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * UNITS[unit]


def wrk(text):
    """An answer that is none (a reset, a time-out, another status) makes the run a failure."""
    for bad in ("Socket errors", "Non-2xx"):
        if bad in text:
            line = next(line for line in text.splitlines() if bad in line)
            # wrk counts the end of a connection that the server was asked to close as a read error.
            if re.search(r"connect 0, read \d+, write 0, timeout 0", line) is None:
                raise ValueError(line.strip())
    percentile = dict(re.findall(r"^\s*(\d+)%\s+(\S+)$", text, re.M))
    return {
        "per_second": float(re.search(r"Requests/sec:\s*([\d.]+)", text).group(1)),
        "p50": microseconds(percentile["50"]),
        "p99": microseconds(percentile["99"]),
    }


def self_test():
    assert wrk("    50%  1.50ms\n    99%  2.00s\nRequests/sec:  123.5\n") == {
        "per_second": 123.5,
        "p50": 1500.0,
        "p99": 2e6,
    }
    names = '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"'
    assert redis(names + '\n"GET","1000.5","0.1","0.1","0.2","0.3","0.4","0.5"\n') == {
        "per_second": 1000.5,
        "p50": 200.0,
        "p99": 400.0,
    }
    end = {
        "sum_received": {"bytes": 2e9, "bits_per_second": 8e9, "seconds": 2},
        "cpu_utilization_percent": {"host_total": 50},
    }
    assert iperf3(json.dumps({"end": end})) == {
        "bytes_per_second": 1e9,
        "own_seconds_per_gigabyte": 0.5,
    }
    try:
        wrk("  Non-2xx or 3xx responses: 7\n")
    except ValueError:
        return
    raise AssertionError("an answer that is none was counted")


def main():
    if sys.argv[1:] == ["--self-test"]:
        self_test()
        return
    tool, path = sys.argv[1:]
    with open(path, encoding="utf-8") as file:
        figures = {"iperf3": iperf3, "redis": redis, "wrk": wrk}[tool](file.read())
    for name, value in figures.items():
        print(f"{name} {value:.9g}")


if __name__ == "__main__":
    main()
