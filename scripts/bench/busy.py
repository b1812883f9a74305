#!/usr/bin/env python3
"""The two programs of busy.sh: `peer ADDRESS COUNT` sends a byte for every ten echo requests and tells how soon each
was acknowledged; `ours ADDRESS SECONDS` connects, and computes from then on."""

import fcntl
import os
import socket
import struct
import sys
import termios
import time

PORT = 4650


def unacknowledged(connection):
    return struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, b"\0" * 4))[0]


def peer(address, count):
    listener = socket.create_server((address, PORT))
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.recv(1)
    delays = []
    for _ in range(count // 10):
        time.sleep(0.1)
        began = time.monotonic()
        connection.send(b"x")
        while unacknowledged(connection) and time.monotonic() < began + 2:
            time.sleep(0.0001)
        delays.append((time.monotonic() - began) * 1000)
    delays.sort()
    print("acknowledged after: median %.2f ms, slowest %.2f ms" % (delays[len(delays) // 2], delays[-1]))


def ours(address, seconds):
    connection = socket.create_connection((address, PORT))
    connection.send(b"x")
    end = os.times().elapsed + seconds
    turns = 0
    while turns % 1000 or os.times().elapsed < end:
        turns += 1


{"peer": peer, "ours": ours}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
