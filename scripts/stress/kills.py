"""Kills families of processes at random instants and looks at what is left of each: its peers' connections, its names,
its keeper, its port, and a family beside it on the same address. To be run in the laboratory by scripts/kills.sh."""

import argparse
import os
import random
import signal
import subprocess
import sys
import threading
import time

PORT, LISTENER, BYSTANDER_PORT = 4700, 4701, 4702
# What must happen at once gets so long on a loaded machine, in seconds.
AT_ONCE = 4
# And what takes its time there.
STARTING = 30
WORKERS = 3


class Failure(Exception):
    pass


def until(condition, what, patience=AT_ONCE):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            raise Failure(what)
        time.sleep(0.002)


class Witness:
    """The kernel's end: counts what it says."""

    def __init__(self, out, seconds, port, listener):
        argv = ["nsenter", "--net=/run/netns/" + os.environ["LAB_PEER"], out + "/witness"]
        self.process = subprocess.Popen(argv + [str(port), str(listener), str(seconds)], stdout=subprocess.PIPE, text=True)
        self.open = self.begun = self.resets = self.ends = 0
        self.last_end = 0.0
        self.wrong = []
        self.ready = False
        threading.Thread(target=self.listen, daemon=True).start()
        until(lambda: self.ready, "the peer is not ready")

    def listen(self):
        for line in self.process.stdout:
            what, number, micros = line.split()
            if what == "ready":
                self.ready = True
            elif what == "+":
                self.open += 1
                self.begun += 1
            elif what in ("RST", "FIN"):
                self.last_end = int(micros) / 1e6
                self.open -= 1
                self.resets += what == "RST"
                self.ends += what == "FIN"
            else:
                self.wrong.append(line.strip())


def ours(out, name, arguments, log=None):
    environment = dict(os.environ, LD_PRELOAD=os.environ["REMORA_LIB"])
    if log:
        environment.update(REMORA_LOG="info", REMORA_LOG_FILE=log)
    argv = ["nsenter", "--net=/run/netns/" + os.environ["LAB_OURS"], out + "/" + name]
    # nsenter is not to be preloaded itself.
    preload = environment.pop("LD_PRELOAD")
    argv[2:2] = ["env", "LD_PRELOAD=" + preload]
    return subprocess.Popen(argv + [str(one) for one in arguments], env=environment)


def read(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def children(pid):
    return [int(one) for one in read(f"/proc/{pid}/task/{pid}/children").split()]


def is_alive(pid):
    state = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return bool(state) and state[0] not in "ZX"


class Ground:
    """What is there beside the families that are killed."""

    def __init__(self, bystander):
        self.bystander = bystander
        self.namespace = os.readlink(f"/proc/{bystander.pid}/ns/net")
        self.keepers_before = self.keepers()
        self.names_before = self.names()

    def names(self):
        found = set()
        for line in read(f"/proc/{self.bystander.pid}/net/unix").splitlines():
            name = line.split()[-1]
            if name.startswith("@remora/") and not name.endswith("/answerer"):
                found.add(name)
        return found

    def keepers(self):
        found = set()
        for pid in os.listdir("/proc"):
            if pid.isdigit() and read(f"/proc/{pid}/comm") == "remora-keeper\n":
                try:
                    if os.readlink(f"/proc/{pid}/ns/net") == self.namespace and is_alive(pid):
                        found.add(pid)
                except OSError:
                    pass
        return found

    def is_clean(self):
        return self.names() <= self.names_before and self.keepers() <= self.keepers_before


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def one_round(out, directory, number, chance, witness, ground, result):
    log, ready = f"{directory}/log-{number}", f"{directory}/ready-{number}"
    begun = witness.begun
    parent = ours(out, "family", [PORT, LISTENER, ready], log)
    try:
        until(lambda: os.path.exists(ready) or parent.poll() is not None, "the family does not start", STARTING)
        if parent.poll() is not None:
            raise Failure(f"the family's port is not free: it ended with {parent.returncode}")
        until(lambda: witness.begun >= begun + WORKERS, "no worker has connected", STARTING)
        time.sleep(chance.uniform(0, 0.03))
        family = children(parent.pid)
        whom = chance.choice(["parent", "worker", "worker", "all"])
        victims = {"parent": [parent.pid], "worker": [chance.choice(family)], "all": [parent.pid] + family}[whom]
        killed_at = time.monotonic()
        kill(victims)
        survivors = [pid for pid in [parent.pid] + family if pid not in victims]
        if survivors:
            time.sleep(0.05)
        lost = "connections are lost" in read(log)
        if lost and survivors:
            # Nobody helps: the keeper resets the peers while the rest of the family lives, and that ends of itself.
            until(lambda: witness.open == 0, f"the peers of a lost family are not reset (killed: {whom})")
            result["slowest"] = max(result["slowest"], witness.last_end - killed_at)
        elif survivors and not all(is_alive(pid) for pid in survivors):
            lost = "connections are lost" in read(log)
            if not lost:
                raise Failure(f"one that was not killed has ended beside a killed {whom}")
        again = time.monotonic()
        kill([parent.pid] + family)
        parent.wait()
        until(lambda: witness.open == 0, f"{witness.open} connections of a killed family go on")
        result["slowest"] = max(result["slowest"], witness.last_end - again)
        until(ground.is_clean, f"left: {ground.names() - ground.names_before} {ground.keepers() - ground.keepers_before}")
        text = read(log)
        result["lost"] += "connections are lost" in text
        result["whole"] += "where it is whole" in text
        result["kills"] += 1
    finally:
        kill([parent.pid] + children(parent.pid))
        parent.wait()
    os.unlink(ready)
    if os.path.exists(log):
        os.unlink(log)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", required=True)
    parser.add_argument("--directory", required=True)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    chance = random.Random(arguments.seed)
    seconds = 60 + 3 * arguments.count
    witness = Witness(arguments.out, seconds, PORT, LISTENER)
    other = Witness(arguments.out, seconds, BYSTANDER_PORT, 0)
    report = f"{arguments.directory}/answers"
    bystander = ours(arguments.out, "bystander", [BYSTANDER_PORT, report])
    answers = lambda: int(read(report) or 0)
    result = {"kills": 0, "whole": 0, "lost": 0, "slowest": 0.0}
    status = 0
    try:
        until(lambda: answers() > 0, "the bystander does not start", STARTING)
        ground = Ground(bystander)
        for number in range(arguments.count):
            before = answers()
            one_round(arguments.out, arguments.directory, number, chance, witness, ground, result)
            until(lambda: answers() > before, "the bystander has no answers any more")
            if witness.wrong or bystander.poll() is not None:
                raise Failure(f"peers saw {witness.wrong}; the bystander: {bystander.poll()}")
            if number % 100 == 99:
                print(f"{number + 1} of {arguments.count}: {result}", flush=True)
    except Failure as failure:
        print(f"FAILED in round {result['kills']}: {failure}", flush=True)
        status = 1
    finally:
        kill([bystander.pid, witness.process.pid, other.process.pid])
        for process in (bystander, witness.process, other.process):
            process.wait()
    kills, inside = max(result["kills"], 1), result["whole"] + result["lost"]
    print(f"{result['kills']} kills; inside the lock: {inside} families ({100 * inside / kills:.1f} %), "
          f"lost {result['lost']} ({100 * result['lost'] / kills:.1f} %)")
    print(f"peers: {witness.begun} connections, {witness.resets} ended by a reset, {witness.ends} by the end of the stream; "
          f"slowest {1000 * result['slowest']:.0f} ms after the kill")
    return status


sys.exit(main())
