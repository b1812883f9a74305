#!/usr/bin/env bash
# perl and ruby fork servers on our side, a process per connection, zombies reaped by a
# signal handler in the middle of accept; both as clients of a kernel server.
# shellcheck source=../tap.sh source-path=SCRIPTDIR
. "$(dirname "${BASH_SOURCE[0]}")/../tap.sh"
tap_begin "$0" "$@"

# Each line comes back reversed, with the process that did it.
# shellcheck disable=SC2016  # the dollars are perl's
perl_server='
use strict; use warnings; use IO::Socket::INET; use POSIX ":sys_wait_h";
$SIG{CHLD} = sub { 1 while waitpid(-1, WNOHANG) > 0 };
my $listener = IO::Socket::INET->new(LocalAddr => $ARGV[0], LocalPort => $ARGV[1], Listen => 64, ReuseAddr => 1) or die $@;
while (1) {
    my $client = $listener->accept() or next;
    my $child = fork() // die $!;
    if ($child == 0) {
        close $listener;
        $client->autoflush(1);
        while (my $line = <$client>) { chomp $line; print $client "$$ " . reverse($line) . "\n"; }
        exit 0;
    }
    close $client;
}
'
ruby_server='
require "socket"
listener = TCPServer.new(ARGV[0], ARGV[1].to_i)
listener.listen(64)
trap("CHLD") { begin; nil while Process.wait(-1, Process::WNOHANG); rescue Errno::ECHILD; end }
loop do
  client = listener.accept
  fork do
    listener.close
    while line = client.gets
      client.write("#{Process.pid} #{line.chomp.reverse}\n")
    end
  end
  client.close
end
'
client='
import socket, sys, threading
faults, pids = [], set()
def talk(number):
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20) as sock, sock.makefile("rb") as stream:
        for turn in range(5):
            text = b"%d-%d-" % (number, turn) + b"abc" * (10 ** turn)
            sock.sendall(text + b"\n")
            pid, answer = stream.readline().split()
            assert answer == text[::-1]
            pids.add(pid)
        sock.shutdown(socket.SHUT_WR)
        assert stream.read() == b""
def guarded(number):
    try:
        talk(number)
    except BaseException as fault:
        faults.append((number, repr(fault)))
for block in range(4):
    threads = [threading.Thread(target=guarded, args=(block * 8 + n,)) for n in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
assert not faults, faults
assert len(pids) == 32, len(pids)
'
echo_server='
import socketserver, sys
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        while data := self.request.recv(65536):
            self.request.sendall(data)
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server((sys.argv[1], 4520), Handler).serve_forever()
'
# shellcheck disable=SC2016  # the dollars are perl's
perl_client='
use strict; use warnings; use IO::Socket::INET;
my $server = IO::Socket::INET->new(PeerAddr => $ARGV[0], PeerPort => 4520, Timeout => 10) or die $@;
$server->peerhost eq $ARGV[0] or die "peer";
my $data = join "", map { chr($_ * 7 % 256) } 0 .. 499_999;
my $child = fork() // die $!;
if ($child == 0) { print $server $data; $server->flush; shutdown($server, 1); exit 0; }
local $/; my $back = <$server>;
waitpid $child, 0;
$back eq $data or die "other data: " . length $back;
'
ruby_client='
require "socket"
data = Random.new(1).bytes(500_000)
threads = 8.times.map do
  Thread.new do
    Socket.tcp(ARGV[0], 4520, connect_timeout: 10) do |server|
      writer = Thread.new { server.write(data); server.close_write }
      raise "other data" unless server.read == data
      writer.join
    end
  end
end
threads.each(&:join)
'

talk() { lab_peer /usr/bin/python3 -c "$client" "$T_LOCAL" "$1"; }
no_zombies() { ! pgrep -r Z -P "$(pgrep -P "$1")" >/dev/null; }

lab_up
our_server 4521 perl -e "$perl_server" "$T_LOCAL" 4521 || true
ok "perl: 32 connections, a process each" talk 4521
ok "perl: the children are reaped" retry 5 no_zombies "$LAB_PID"
lab_stop "$LAB_PID"
our_server 4522 ruby -e "$ruby_server" "$T_LOCAL" 4522 || true
ok "ruby: 32 connections, a process each" talk 4522
ok "ruby: the children are reaped" retry 5 no_zombies "$LAB_PID"
lab_stop "$LAB_PID"
peer_server tcp 4520 /usr/bin/python3 -c "$echo_server" "$T_PEER"
ok "perl as client: a child writes what the parent reads" lab_ours perl -e "$perl_client" "$T_PEER"
ok "ruby as client: 8 threads" lab_ours ruby -e "$ruby_client" "$T_PEER"
tap_end
