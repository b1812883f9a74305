#!/usr/bin/python3
# The HTTP/1.1 server of the tests' far side, standard library only: pseudo-random bytes
# down, checksums of what came up. It ends by itself after --life seconds. What the tests
# ask of it is left to scripts/tests/.
"""HTTP peer for the tests.

GET  /                  a short page
GET  /bytes/N[?seed=S]  N pseudo-random bytes, the same for the same N and S
GET  /connections       how many connections were accepted so far, this one included
GET  /silent            no answer before the server ends
POST, PUT /echo         the body comes back
POST, PUT anything else "LENGTH SHA256" of the body
"""

import argparse
import hashlib
import http.server
import random
import sys
import threading
import urllib.parse

CHUNK = 65536


def pseudo_random(length, seed):
    """Chunks that add up to `length` bytes."""
    source = random.Random(seed)
    while length > 0:
        piece = source.randbytes(min(CHUNK, length))
        length -= len(piece)
        yield piece


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    # A client that stops talking does not hold its thread for ever.
    timeout = 120

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def answer(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, text):
        self.close_connection = True
        self.send_error(status, text)

    def do_GET(self):
        parts = urllib.parse.urlsplit(self.path)
        words = parts.path.strip("/").split("/")
        if words == [""]:
            self.answer(b"<h1>remora</h1>\n", "text/html")
        elif words == ["connections"]:
            self.answer(b"%d\n" % self.server.connections)
        elif words == ["silent"]:
            self.server.over.wait()
        elif len(words) == 2 and words[0] == "bytes" and words[1].isdigit():
            query = urllib.parse.parse_qs(parts.query)
            self.stream(int(words[1]), int(query.get("seed", ["1"])[0]))
        else:
            self.refuse(404, "no such thing")

    do_HEAD = do_GET

    def stream(self, length, seed):
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            for piece in pseudo_random(length, seed):
                self.wfile.write(piece)

    def do_POST(self):
        echo = urllib.parse.urlsplit(self.path).path == "/echo"
        digest = hashlib.sha256()
        length = 0
        kept = []
        for piece in self.body():
            digest.update(piece)
            length += len(piece)
            if echo:
                kept.append(piece)
        if echo:
            self.answer(b"".join(kept), "application/octet-stream")
        else:
            self.answer(b"%d %s\n" % (length, digest.hexdigest().encode()))

    do_PUT = do_POST

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            yield from self.chunks()
        else:
            yield from self.exactly(int(self.headers.get("Content-Length", "0")))

    def exactly(self, length):
        while length > 0:
            piece = self.rfile.read(min(CHUNK, length))
            if not piece:
                raise ConnectionError("the body ended early")
            length -= len(piece)
            yield piece

    def chunks(self):
        while size := int(self.rfile.readline().split(b";")[0], 16):
            yield from self.exactly(size)
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass

    def log_message(self, form, *words):
        sys.stderr.write(f"{self.client_address[0]}:{self.client_address[1]} {form % words}\n")


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, address):
        self.connections = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        super().__init__(address, Handler)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bind", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--life", type=float, default=300, help="seconds until it ends")
    parser.add_argument(
        "--sum",
        nargs=2,
        type=int,
        metavar=("LENGTH", "SEED"),
        help="print the sha256 of /bytes/LENGTH?seed=SEED and end",
    )
    arguments = parser.parse_args()
    if arguments.sum:
        digest = hashlib.sha256()
        for piece in pseudo_random(*arguments.sum):
            digest.update(piece)
        print(digest.hexdigest())
        return
    server = Server((arguments.bind, arguments.port))
    timer = threading.Timer(arguments.life, server.shutdown)
    timer.daemon = True
    timer.start()
    server.serve_forever(poll_interval=0.2)
    server.over.set()


if __name__ == "__main__":
    main()
