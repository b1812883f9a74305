#!/usr/bin/env python3
"""The two programs of busy.sh: `peer ADDRESS OURS COUNT` asks by echo requests and sends a byte for every fifth, and
tells how soon each was answered and acknowledged, by the kernel's time stamps; `ours ADDRESS SECONDS compute|call`
connects and computes from then on, and with `call` asks for a socket's option every 1.5 ms."""

import os
import socket
import struct
import sys
import time

PORT = 4650
SO_TIMESTAMPNS = 35
SO_TIMESTAMPING = 37
# SOF_TIMESTAMPING_TX_ACK, _SOFTWARE and _OPT_TSONLY.
ACKNOWLEDGED = 1 << 9 | 1 << 4 | 1 << 11


def stamp(ancillary):
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind in (SO_TIMESTAMPNS, SO_TIMESTAMPING):
            seconds, nanos = struct.unpack_from("qq", data)
            return seconds + nanos / 1e9
    return None


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo(raw, ours, number):
    """Milliseconds from the way out of a request to the way in of its reply."""
    head = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number)
    request = head[:2] + struct.pack("!H", checksum(head)) + head[4:]
    began = time.time()
    raw.sendto(request, (ours, 0))
    while True:
        packet, ancillary, _, _ = raw.recvmsg(2048, 512)
        message = packet[(packet[0] & 15) * 4:]
        if message[0] == 0 and message[4:8] == request[4:8]:
            return (stamp(ancillary) - began) * 1000


def acknowledgement(connection):
    """Milliseconds from a byte's way out to its acknowledgement."""
    began = time.time()
    connection.send(b"x")
    while time.time() < began + 3:
        try:
            _, ancillary, _, _ = connection.recvmsg(64, 512, socket.MSG_ERRQUEUE)
            return (stamp(ancillary) - began) * 1000
        except BlockingIOError:
            time.sleep(0.001)
    return 3000.0


def distribution(what, delays):
    delays.sort()
    at = lambda share: delays[min(len(delays) - 1, int(share * len(delays)))]
    print("%-22s least %7.3f  median %7.3f  90 %% %7.3f  99 %% %7.3f  slowest %7.3f ms"
          % (what, delays[0], at(0.5), at(0.9), at(0.99), delays[-1]), flush=True)
    return at


def peer(address, ours, count):
    listener = socket.create_server((address, PORT))
    # The first one meets a link on which nobody is known yet, and measures that.
    listener.accept()[0].close()
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, ACKNOWLEDGED)
    connection.recv(1)
    connection.setblocking(False)
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    raw.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    raw.settimeout(3)
    # Until the receiver is past the quick acknowledgements of a connection's beginning.
    for _ in range(40):
        time.sleep(0.005)
        acknowledgement(connection)
    echoes, acknowledgements = [], []
    for number in range(int(count)):
        # Neither in step with ticks of a millisecond nor with the clock.
        time.sleep(0.011 + number % 17 * 0.0007)
        echoes.append(echo(raw, ours, number))
        if number % 5 == 4:
            acknowledgements.append(acknowledgement(connection))
    at = distribution("echo reply after", echoes)
    distribution("acknowledged after", acknowledgements)
    sys.exit(0 if at(0.99) <= 2 else 3)


def compute(address, seconds, what):
    socket.create_connection((address, PORT)).recv(1)
    connection = socket.create_connection((address, PORT))
    connection.send(b"x")
    end = time.monotonic() + int(seconds)
    call = time.monotonic()
    while (now := time.monotonic()) < end:
        if what == "call" and now - call > 0.0015:
            call = now
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


{"peer": peer, "ours": compute}[sys.argv[1]](*sys.argv[2:])
