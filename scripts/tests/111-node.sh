#!/usr/bin/env bash
# node: its HTTP server on our side, fetched by kernel clients, one by one and in parallel;
# its HTTP client with kept-alive connections and its UDP client on our side.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

server='
const http = require("http"), crypto = require("crypto");
http.createServer((request, response) => {
    if (request.method === "POST") {
        request.pipe(response);
    } else {
        const length = Number(request.url.slice(1));
        response.end(Buffer.alloc(length, "node"));
    }
}).listen(Number(process.argv[2]), process.argv[1], 511);
process.on("SIGTERM", () => process.exit(0));
'
fetch() { lab_peer curl -sS -m 30 "$@"; }
pattern() { /usr/bin/python3 -c 'import sys; sys.stdout.write(("node" * (int(sys.argv[1]) // 4 + 1))[:int(sys.argv[1])])' "$1"; }

downloads() {
    local length
    for length in 0 10 100000 5000000; do
        pattern "$length" >"$TAP_DIR/want"
        : >"$TAP_DIR/got"
        fetch -o "$TAP_DIR/got" "http://$T_LOCAL:8111/$length"
        same_data "$TAP_DIR/want" "$TAP_DIR/got"
    done
}

echoes() {
    bytes 3000000 4 "$TAP_DIR/body"
    fetch -H 'Expect:' --data-binary "@$TAP_DIR/body" -o "$TAP_DIR/echoed" "http://$T_LOCAL:8111/"
    same_data "$TAP_DIR/body" "$TAP_DIR/echoed"
}

parallel() {
    local number
    local -a words=()
    pattern 500000 >"$TAP_DIR/want"
    for number in $(seq 20); do
        words+=(-o "$TAP_DIR/parallel-$number" "http://$T_LOCAL:8111/500000")
    done
    fetch -Z --parallel-immediate --parallel-max 20 "${words[@]}"
    for number in $(seq 20); do
        cmp "$TAP_DIR/want" "$TAP_DIR/parallel-$number"
    done
}

many_requests() {
    lab_peer ab -q -k -n 1000 -c 10 "http://$T_LOCAL:8111/100" >"$TAP_DIR/ab"
    says '^Complete requests: +1000$' "$TAP_DIR/ab"
    says '^Failed requests: +0$' "$TAP_DIR/ab"
}

client() {
    lab_ours node - "$T_PEER" <<'NODE'
const http = require("http"), crypto = require("crypto"), assert = require("assert");
const peer = process.argv[2], agent = new http.Agent({ keepAlive: true, maxSockets: 5 });
function request(options, body) {
    return new Promise((resolve, reject) => {
        const sent = http.request({ host: peer, port: 8080, agent, timeout: 20000, ...options }, (answer) => {
            const pieces = [];
            answer.on("data", (piece) => pieces.push(piece));
            answer.on("end", () => resolve(Buffer.concat(pieces)));
        });
        sent.on("error", reject);
        sent.on("timeout", () => reject(new Error("timeout")));
        sent.end(body);
    });
}
(async () => {
    const lengths = [...Array(20).keys()].map((n) => n * 20000);
    const got = await Promise.all(lengths.map((n) => request({ path: `/bytes/${n}` })));
    assert.deepStrictEqual(got.map((body) => body.length), lengths);
    const body = crypto.randomBytes(2000000);
    const echoed = await request({ path: "/echo", method: "POST" }, body);
    assert(echoed.equals(body));
    const sum = crypto.createHash("sha256").update(body).digest("hex");
    assert.strictEqual((await request({ path: "/hash", method: "POST" }, body)).toString().trim(), `${body.length} ${sum}`);
    await assert.rejects(request({ path: "/", port: 1 }), { code: "ECONNREFUSED" });
    agent.destroy();
})().catch((fault) => { console.error(fault); process.exit(1); });
NODE
}

udp_client() {
    lab_ours node - "$T_PEER" <<'NODE'
const dgram = require("dgram"), assert = require("assert");
const socket = dgram.createSocket("udp4");
let next = 0;
const timer = setTimeout(() => { console.error("no answer to", next); process.exit(1); }, 10000);
const send = () => socket.send(Buffer.alloc(next * 10, next), 4311, process.argv[2]);
socket.on("message", (message) => {
    assert(message.equals(Buffer.alloc(next * 10, next)));
    if (++next === 100) { clearTimeout(timer); socket.close(); } else send();
});
send();
NODE
}

udp_echo='
import socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind((sys.argv[1], 4311))
while True:
    server.sendto(*server.recvfrom(65536))
'

if ! command -v node >/dev/null 2>&1; then
    not_here "node" "node is not installed"
    tap_end
fi
lab_up
peer_http 8080
peer_server udp 4311 /usr/bin/python3 -c "$udp_echo" "$T_PEER"
our_server 8111 node -e "$server" "$T_LOCAL" 8111 || true
SERVER=$LAB_PID
ok "the server: four lengths" downloads
ok "the server: 3 MB there and back" echoes
ok "the server: 20 transfers in parallel" parallel
ok "the server: ab, 1,000 requests kept alive" many_requests
ok "the server still runs" kill -0 "$SERVER"
lab_stop "$SERVER"
ok "the HTTP client: 20 at once over five connections, echo, refused" client
ok "the UDP client" udp_client
tap_end
