#!/usr/bin/env bash
# java, if it is at hand: an HTTP server on our side with a thread per connection and one
# with NIO selectors; sockets, channels and the HTTP client on our side.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

if ! command -v javac >/dev/null 2>&1; then
    not_here "java" "it is not at hand, and too large a package for a test"
    tap_end
fi

write_program() {
    cat >"$TAP_DIR/Lab.java" <<'JAVA'
import java.io.*;
import java.net.*;
import java.net.http.*;
import java.nio.*;
import java.nio.channels.*;
import java.util.*;
import java.util.concurrent.*;

public class Lab {
    static byte[] pattern(int length) {
        byte[] data = new byte[length];
        new Random(length).nextBytes(data);
        return data;
    }

    // com.sun.net.httpserver runs on NIO selectors.
    static void http(InetSocketAddress address) throws Exception {
        var server = com.sun.net.httpserver.HttpServer.create(address, 64);
        server.createContext("/echo", exchange -> {
            byte[] body = exchange.getRequestBody().readAllBytes();
            exchange.sendResponseHeaders(200, body.length == 0 ? -1 : body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.start();
    }

    static void threads(InetSocketAddress address) throws Exception {
        var listener = new ServerSocket();
        listener.setReuseAddress(true);
        listener.bind(address, 64);
        while (true) {
            Socket client = listener.accept();
            new Thread(() -> {
                try (client) {
                    client.getInputStream().transferTo(client.getOutputStream());
                } catch (IOException gone) {
                    gone.printStackTrace();
                }
            }).start();
        }
    }

    static void selector(InetSocketAddress address) throws Exception {
        var selector = Selector.open();
        var listener = ServerSocketChannel.open().bind(address, 64);
        listener.configureBlocking(false).register(selector, SelectionKey.OP_ACCEPT);
        while (true) {
            selector.select();
            for (var keys = selector.selectedKeys().iterator(); keys.hasNext();) {
                var key = keys.next();
                keys.remove();
                if (key.isAcceptable()) {
                    var client = listener.accept();
                    client.configureBlocking(false).register(selector, SelectionKey.OP_READ, ByteBuffer.allocateDirect(65536));
                    continue;
                }
                var channel = (SocketChannel) key.channel();
                var buffer = (ByteBuffer) key.attachment();
                if (key.isReadable() && channel.read(buffer) < 0) {
                    key.cancel();
                    channel.configureBlocking(true);
                    for (buffer.flip(); buffer.hasRemaining();) {
                        channel.write(buffer);
                    }
                    channel.close();
                    continue;
                }
                buffer.flip();
                channel.write(buffer);
                buffer.compact();
                int room = buffer.hasRemaining() ? SelectionKey.OP_READ : 0;
                key.interestOps(room | (buffer.position() > 0 ? SelectionKey.OP_WRITE : 0));
            }
        }
    }

    static void check(boolean right, String what) {
        if (!right) throw new AssertionError(what);
    }

    static void client(String peer) throws Exception {
        var pool = Executors.newFixedThreadPool(8);
        var tasks = new ArrayList<Future<?>>();
        for (int number = 0; number < 16; number++) {
            int length = number * 50000;
            tasks.add(pool.submit(() -> {
                try (var socket = new Socket()) {
                    socket.setSoTimeout(20000);
                    socket.connect(new InetSocketAddress(peer, 4530), 10000);
                    var data = pattern(length);
                    var writer = new Thread(() -> {
                        try {
                            socket.getOutputStream().write(data);
                            socket.shutdownOutput();
                        } catch (IOException gone) {
                            gone.printStackTrace();
                        }
                    });
                    writer.start();
                    check(Arrays.equals(socket.getInputStream().readAllBytes(), data), "echo of " + length);
                    writer.join();
                }
                return null;
            }));
        }
        for (var task : tasks) task.get();
        pool.shutdown();

        var http = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
        var body = pattern(1000000);
        var request = HttpRequest.newBuilder(URI.create("http://" + peer + ":8080/echo"))
            .POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
        for (int turn = 0; turn < 3; turn++) {
            check(Arrays.equals(http.send(request, HttpResponse.BodyHandlers.ofByteArray()).body(), body), "HTTP echo");
        }
        try (var socket = new Socket(peer, 1)) {
            check(false, "a closed port");
        } catch (ConnectException refused) {
            check(refused.getMessage().contains("refused"), refused.getMessage());
        }
        try (var datagrams = DatagramChannel.open()) {
            datagrams.connect(new InetSocketAddress(peer, 4531));
            for (int length = 100; length < 1400; length += 100) {
                datagrams.write(ByteBuffer.wrap(pattern(length)));
                var answer = ByteBuffer.allocate(2000);
                check(datagrams.read(answer) == length, "datagram of " + length);
            }
        }
        System.out.println("all right");
        System.exit(0);
    }

    public static void main(String[] words) throws Exception {
        if (words[0].equals("client")) {
            client(words[1]);
            return;
        }
        http(new InetSocketAddress(words[1], 8112));
        new Thread(() -> {
            try {
                selector(new InetSocketAddress(words[1], 4533));
            } catch (Exception fault) {
                fault.printStackTrace();
            }
        }).start();
        threads(new InetSocketAddress(words[1], 4532));
    }
}
JAVA
    javac -d "$TAP_DIR" "$TAP_DIR/Lab.java"
}

echo_client='
import random, socket, sys, threading
faults = []
def talk(number):
    data = random.Random(number).randbytes(200000)
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as sock:
        writer = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        writer.start()
        with sock.makefile("rb") as stream:
            assert stream.read() == data
        writer.join()
def guarded(number):
    try:
        talk(number)
    except BaseException as fault:
        faults.append((number, repr(fault)))
threads = [threading.Thread(target=guarded, args=(n,)) for n in range(20)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not faults, faults
'
echo_server='
import socket, socketserver, sys, threading
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
server = Server((sys.argv[1], 4530), Handler)
datagrams = socket.socket(type=socket.SOCK_DGRAM)
datagrams.bind((sys.argv[1], 4531))
threading.Thread(target=server.serve_forever, daemon=True).start()
while True:
    datagrams.sendto(*datagrams.recvfrom(65536))
'

http_server() {
    bytes 500000 1 "$TAP_DIR/body"
    local number
    local -a words=()
    for number in $(seq 10); do
        words+=(-H 'Expect:' --data-binary "@$TAP_DIR/body" -o "$TAP_DIR/echo-$number" "http://$T_LOCAL:8112/echo" --next -sS -m 30)
    done
    unset 'words[-1]' 'words[-1]' 'words[-1]' 'words[-1]'
    lab_peer curl -sS -m 30 "${words[@]}"
    for number in $(seq 10); do
        same_data "$TAP_DIR/body" "$TAP_DIR/echo-$number"
    done
}

java_client() {
    lab_argv ours
    timeout -k 3 "$LAB_DEADLINE" "${LAB_ARGV[@]}" java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 \
        -cp "$TAP_DIR" Lab client "$T_PEER" >"$TAP_DIR/client"
    says 'all right' "$TAP_DIR/client"
}

lab_up
write_program
peer_http 8080
peer_server tcp 4530 /usr/bin/python3 -c "$echo_server" "$T_PEER"
our_server 4532 java -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$TAP_DIR" Lab server "$T_LOCAL" || true
SERVER=$LAB_PID
ok "a thread per connection: 20 at once" lab_peer /usr/bin/python3 -c "$echo_client" "$T_LOCAL" 4532
ok "a selector: 20 at once" lab_peer /usr/bin/python3 -c "$echo_client" "$T_LOCAL" 4533
ok "its HTTP server: ten bodies" http_server
ok "the server still runs" kill -0 "$SERVER"
lab_stop "$SERVER"
ok "as client: sockets, HTTP, datagrams, refused" java_client
tap_end
