/* The tables of the differential harness: the states in which a socket can be and how it gets there, and the calls with
 * their good and bad arguments. Options are the full range of numbers, named or not. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "differential.h"

#define ESTABLISHED "socket tcp;connect peerL 16;wait 4;@accept"
#define LISTENING "socket tcp;bind anyP 16;listen 5"
#define CONNECTED_UDP "socket udp;connect peerD 16"
/* Sockets of IPv6 with addresses of IPv4 in them. */
#define ESTABLISHED6 "socket tcp6;connect peerL 16;wait 4;@accept"
#define LISTENING6 "socket tcp6;bind anyP 16;listen 5"
#define CONNECTED_UDP6 "socket udp6;connect peerD 16"
#define TAKE_ERROR "getsockopt 1 4 4 buf"

const struct state states[] = {
    {"tcp", "fresh", "socket tcp", true},
    {"tcp", "bound", "socket tcp;bind anyP 16", false},
    {"tcp", "listening", LISTENING, true},
    {"tcp", "listening with one", LISTENING ";@connect", false},
    {"tcp", "listener shut down", LISTENING ";shutdown 0", false},
    {"tcp", "connecting", "socket tcp;connect hole 16", false},
    {"tcp", "established", ESTABLISHED, true},
    {"tcp", "accepted", LISTENING ";@connect;accept null null 0;take", false},
    {"tcp", "readable", ESTABLISHED ";@send 10", false},
    {"tcp", "urgent", ESTABLISHED ";@send 3;@urgent", false},
    {"tcp", "peer closed", ESTABLISHED ";@fin", false},
    {"tcp", "peer closed with data", ESTABLISHED ";@send 10;@fin", false},
    {"tcp", "shut for writing", ESTABLISHED ";shutdown 1", false},
    {"tcp", "shut for reading", ESTABLISHED ";shutdown 0", false},
    {"tcp", "shut both ways", ESTABLISHED ";shutdown 2", false},
    {"tcp", "time wait", ESTABLISHED ";shutdown 1;@close", false},
    {"tcp", "last ack done", ESTABLISHED ";@fin;shutdown 1", false},
    {"tcp", "refused", "socket tcp;connect peerN 16", false},
    {"tcp", "refused, error taken", "socket tcp;connect peerN 16;wait 4;" TAKE_ERROR, false},
    {"tcp", "reset", ESTABLISHED ";@reset", false},
    {"tcp", "reset with data", ESTABLISHED ";@send 10;@reset", false},
    {"tcp", "reset, error taken", ESTABLISHED ";@reset;recv buf 1 0", false},
    {"tcp", "reset after peer's end", ESTABLISHED ";@close;send buf 1 0x4000", false},
    {"tcp", "disconnected", ESTABLISHED ";connect unspec 16", false},
    {"tcp", "timed established", ESTABLISHED ";timed", false},
    {"tcp", "timed fresh", "socket tcp;timed", false},
    {"tcp", "timed listening", LISTENING ";timed", false},
    {"udp", "fresh", "socket udp", true},
    {"udp", "bound", "socket udp;bind anyP 16", false},
    {"udp", "bound to the address", "socket udp;bind localP 16", false},
    {"udp", "connected", CONNECTED_UDP, true},
    {"udp", "readable", CONNECTED_UDP ";@datagram 10", false},
    {"udp", "bound readable", "socket udp;bind anyP 16;@datagram 10;@datagram 3", false},
    {"udp", "empty datagram", CONNECTED_UDP ";@datagram 0", false},
    {"udp", "refused", "socket udp;connect peerN 16;send buf 1 0", false},
    {"udp", "shut for writing", CONNECTED_UDP ";shutdown 1", false},
    {"udp", "shut for reading", CONNECTED_UDP ";shutdown 0", false},
    {"udp", "shut both ways", CONNECTED_UDP ";shutdown 2", false},
    {"udp", "disconnected", CONNECTED_UDP ";connect unspec 16", false},
    {"udp", "timed", "socket udp;bind anyP 16;timed", false},
    {"udp", "told everything", "socket udp;bind anyP 16;setsockopt 0 8 1 4 buf;setsockopt 0 12 1 4 buf;setsockopt 0 13 1 4 buf;"
     "setsockopt 0 20 1 4 buf;@datagram 10", false},
    {"udp", "told of errors", "socket udp;setsockopt 0 11 1 4 buf;connect peerN 16;send buf 1 0", false},
    {"udp", "timed readable", CONNECTED_UDP ";@datagram 10;timed", false},
    {"ping", "fresh", "socket ping", true},
    {"ping", "bound", "socket ping;bind local0 16", false},
    {"ping", "connected", "socket ping;connect peer0 16", false},
    {"ping", "disconnected", "socket ping;connect peer0 16;connect unspec 16", false},
    {"raw", "fresh", "socket raw", true},
    {"raw", "bound", "socket raw;bind local0 16", false},
    {"raw", "connected", "socket raw;connect peer0 16", false},
    {"raw", "shut both ways", "socket raw;connect peer0 16;shutdown 2", false},
    {"raw", "disconnected", "socket raw;connect peer0 16;connect unspec 16", false},
    {"icmp", "fresh", "socket icmp", false},
    {"icmp", "connected", "socket icmp;connect peer0 16", false},
    {"icmp", "answered", "socket icmp;connect peer0 16;send echo 16 0", false},
    {"icmp", "bound", "socket icmp;bind local0 16", false},
    {"icmp", "shut both ways", "socket icmp;connect peer0 16;shutdown 2", false},
    {"ping", "answered", "socket ping;connect peer0 16;send echo 16 0", false},
    {"ping", "timed", "socket ping;connect peer0 16;timed", false},
    {"tcp6", "fresh", "socket tcp6", true},
    {"tcp6", "bound", "socket tcp6;bind anyP 16", false},
    {"tcp6", "listening", LISTENING6, false},
    {"tcp6", "connecting", "socket tcp6;connect hole 16", false},
    {"tcp6", "established", ESTABLISHED6, true},
    {"tcp6", "accepted", LISTENING6 ";@connect;accept null null 0;take", false},
    {"tcp6", "readable", ESTABLISHED6 ";@send 10", false},
    {"tcp6", "peer closed", ESTABLISHED6 ";@fin", false},
    {"tcp6", "shut for writing", ESTABLISHED6 ";shutdown 1", false},
    {"tcp6", "time wait", ESTABLISHED6 ";shutdown 1;@close", false},
    {"tcp6", "refused", "socket tcp6;connect peerN 16", false},
    {"tcp6", "reset", ESTABLISHED6 ";@reset", false},
    {"tcp6", "disconnected", ESTABLISHED6 ";connect unspec 16", false},
    {"udp6", "fresh", "socket udp6", true},
    {"udp6", "bound", "socket udp6;bind anyP 16", false},
    {"udp6", "connected", CONNECTED_UDP6, true},
    {"udp6", "readable", CONNECTED_UDP6 ";@datagram 10", false},
    {"udp6", "bound readable", "socket udp6;bind anyP 16;@datagram 10;@datagram 3", false},
    {"udp6", "refused", "socket udp6;connect peerN 16;send buf 1 0", false},
    {"udp6", "told everything", "socket udp6;bind anyP 16;setsockopt 41 49 1 4 buf;setsockopt 41 51 1 4 buf;"
     "setsockopt 41 66 1 4 buf;@datagram 10", false},
    {"udp6", "disconnected", CONNECTED_UDP6 ";connect unspec 16", false},
};
const size_t state_count = sizeof states / sizeof states[0];

static const char *const for_all[] = {
    /* bind */
    "bind any0 16", "bind anyP 16", "bind localP 16", "bind local0 16", "bind foreign0 16", "bind broadcastP 16",
    "bind multicastP 16", "bind peerL 16", "bind null 16", "bind bad 16", "bind null 0", "bind anyP 0", "bind anyP 1",
    "bind anyP 2", "bind anyP 8", "bind anyP 15", "bind anyP 17", "bind anyP 128", "bind anyP 129", "bind anyP -1",
    "bind anyP 0x7fffffff", "bind bad -1", "bind unspec 16", "bind unspecP 16", "bind unspec-local 16",
    "bind family:10 16", "bind family:10 28", "bind family:1 16", "bind family:65535 16", "bind odd:anyP 16",
    /* connect */
    "connect peerL 16", "connect peerN 16", "connect peerD 16", "connect peer0 16", "connect hole 16",
    "connect any1 16", "connect broadcast 16", "connect multicast 16", "connect class-e 16", "connect null 16",
    "connect bad 16", "connect null 0", "connect peerL 0", "connect peerL 1", "connect peerL 2", "connect peerL 8",
    "connect peerL 15", "connect peerL 17", "connect peerL 128", "connect peerL 129", "connect peerL -1",
    "connect peerL 0x7fffffff", "connect bad -1", "connect unspec 16", "connect unspec 2", "connect unspec 1",
    "connect family:10 16", "connect family:10 28", "connect family:1 16", "connect family:65535 16",
    "connect odd:peerL 16",
    /* listen, accept, shutdown */
    "listen 0", "listen 5", "listen -1", "listen 0x7fffffff", "accept null null 0", "accept buf 16 0",
    "accept buf 16 0x800", "accept buf 16 0x80000", "accept buf 16 0x80800", "accept buf 16 1", "accept buf 16 -1",
    "accept buf 0 0", "accept buf 1 0", "accept buf 8 0", "accept buf 15 0", "accept buf 128 0", "accept buf -1 0",
    "accept bad 16 0", "accept readonly 16 0", "accept null 16 0", "accept buf null 0", "shutdown 0", "shutdown 1",
    "shutdown 2", "shutdown 3", "shutdown -1", "shutdown 0x7fffffff",
    /* names */
    "getsockname buf 16", "getsockname buf 0", "getsockname buf 1", "getsockname buf 8", "getsockname buf 15",
    "getsockname buf 128", "getsockname buf -1", "getsockname buf 0x7fffffff", "getsockname null 16",
    "getsockname null 0", "getsockname bad 16", "getsockname readonly 16", "getsockname buf null",
    "getsockname bad -1", "getpeername buf 16", "getpeername buf 0", "getpeername buf 1", "getpeername buf 8",
    "getpeername buf 15", "getpeername buf 128", "getpeername buf -1", "getpeername null 16", "getpeername null 0",
    "getpeername bad 16", "getpeername readonly 16", "getpeername buf null", "getpeername bad -1",
    /* send */
    "send buf 0 0", "send buf 1 0", "send buf 100 0", "send buf 5000 0", "send null 0 0", "send null 1 0", "send bad 0 0",
    "send bad 1 0", "send bad 100 0x4000", "send buf -1 0", "send buf 1 0x4000", "send buf 0 0x4000", "send buf 1 1",
    "send buf 3 1", "send buf 0 1", "send buf 1 0x40", "send buf 1 0x8000", "send buf 1 4", "send buf 1 2",
    "send buf 1 0x80", "send buf 1 0x100", "send buf 1 0x800", "send buf 1 0x2000", "send buf 1 0x10000",
    "send buf 1 0x4000000", "send buf 1 0x20000000", "send buf 1 -1", "send buf 70000 0x4000", "write buf 0",
    "write buf 1", "write buf 100", "write null 0", "write null 1", "write bad 1", "write buf -1", "writev buf 1 1",
    "writev buf 1 0", "writev buf 1 2", "writev buf 1 1024", "writev buf 1 1025", "writev buf 1 -1", "writev buf 0 1",
    "writev buf -1 1", "writev bad 1 1", "writev null 1 1", "writev null 1 0",
    "sendto buf 4 0 peerL 16", "sendto buf 4 0 peerD 16", "sendto buf 4 0 peerN 16", "sendto buf 4 0 peer0 16",
    "sendto buf 4 0x4000 peerD 16", "sendto buf 0 0 peerD 16", "sendto buf 4 0 broadcast 16",
    "sendto buf 4 0 multicast 16", "sendto buf 4 0 class-e 16", "sendto buf 4 0 any1 16", "sendto buf 4 0 null 16",
    "sendto buf 4 0 null 0", "sendto buf 4 0 bad 16", "sendto buf 4 0 bad 0", "sendto buf 4 0 peerD 0",
    "sendto buf 4 0 peerD 1", "sendto buf 4 0 peerD 8", "sendto buf 4 0 peerD 15", "sendto buf 4 0 peerD 17",
    "sendto buf 4 0 peerD 128", "sendto buf 4 0 peerD 129", "sendto buf 4 0 peerD -1", "sendto buf 4 0 unspec 16",
    "sendto buf 4 0 unspecP 16", "sendto buf 4 0 family:10 16", "sendto buf 4 0 family:10 28",
    "sendto buf 4 0 family:1 16", "sendto buf 4 0 family:1 110", "sendto bad 4 0 peerD 16", "sendto bad 4 0 bad 16",
    "sendto buf -1 0 peerD 16", "sendto buf 4 1 peerD 16", "sendto buf 4 0 odd:peerD 16",
    "sendmsg null 0 iov 1 4 null 0 0", "sendmsg peerD 16 iov 1 4 null 0 0", "sendmsg peerD 15 iov 1 4 null 0 0",
    "sendmsg peerD 0 iov 1 4 null 0 0", "sendmsg peerD -1 iov 1 4 null 0 0", "sendmsg peerD 200 iov 1 4 null 0 0",
    "sendmsg bad 16 iov 1 4 null 0 0", "sendmsg null 16 iov 1 4 null 0 0", "sendmsg null 0 iov 0 4 null 0 0",
    "sendmsg peerD 16 iov 0 4 null 0 0", "sendmsg null 0 iov 1024 4 null 0 0", "sendmsg null 0 iov 1025 4 null 0 0",
    "sendmsg null 0 iov -1 4 null 0 0", "sendmsg null 0 null 1 4 null 0 0", "sendmsg null 0 null 0 4 null 0 0",
    "sendmsg null 0 bad 1 4 null 0 0", "sendmsg null 0 badbase 1 4 null 0 0", "sendmsg null 0 badbase 1 0 null 0 0",
    "sendmsg null 0 iov 1 -1 null 0 0", "sendmsg null 0 iov 1 0 null 0 0", "sendmsg null 0 iov 1 4 buf 20 0",
    "sendmsg null 0 iov 1 4 short 20 0", "sendmsg null 0 iov 1 4 buf 3 0", "sendmsg null 0 iov 1 4 null 20 0",
    "sendmsg null 0 iov 1 4 bad 20 0", "sendmsg null 0 iov 1 4 bad 0 0", "sendmsg null 0 iov 1 4 buf -1 0",
    "sendmsg null 0 iov 1 4 buf 0x7fffffff 0", "sendmsg null 0 iov 1 4 null 0 0x4000", "sendmmsg buf 0 0",
    "sendmmsg buf 1 0", "sendmmsg buf 3 0", "sendmmsg null 1 0", "sendmmsg bad 1 0", "sendmmsg null 0 0",
    "sendmmsg buf 3 0x4000",
    /* receive */
    "recv buf 0 0", "recv buf 1 0", "recv buf 100 0", "recv null 0 0", "recv null 1 0", "recv bad 0 0", "recv bad 1 0",
    "recv readonly 4 0", "recv buf -1 0", "recv buf 4 2", "recv buf 100 2", "recv buf 4 1", "recv buf 0 1",
    "recv buf 4 0x20", "recv buf 100 0x22", "recv buf 4 0x40", "recv buf 4 0x140", "recv buf 100 0x100",
    "recv buf 4 0x102", "recv buf 4 0x2000", "recv buf 4 0x10000", "recv buf 4 0x4000", "recv buf 4 0x40000000",
    "recv buf 4 -1", "recv buf 4 4", "recv buf 4 0x80", "read buf 0", "read buf 1", "read buf 100", "read null 0",
    "read null 1", "read bad 1", "read readonly 1", "read buf -1", "readv buf 100 1", "readv buf 100 0",
    "readv buf 100 1024", "readv buf 100 1025", "readv buf 100 -1", "readv buf -1 1", "readv bad 4 1",
    "readv null 4 1", "readv null 4 0", "recvfrom buf 100 0 buf 16", "recvfrom buf 100 0 buf 0",
    "recvfrom buf 100 0 buf 1", "recvfrom buf 100 0 buf 8", "recvfrom buf 100 0 buf 128", "recvfrom buf 100 0 buf -1",
    "recvfrom buf 100 0 null 16", "recvfrom buf 100 0 bad 16", "recvfrom buf 100 0 readonly 16",
    "recvfrom buf 100 0 buf null", "recvfrom buf 100 0 null null", "recvfrom bad 4 0 buf 16",
    "recvfrom buf 4 2 buf 16", "recvfrom buf 0 0 buf 16", "recvmsg buf 16 iov 1 100 null 0 0",
    "recvmsg buf 16 iov 1 4 null 0 0", "recvmsg buf 16 iov 1 4 null 0 2", "recvmsg buf 16 iov 1 4 null 0 0x20",
    "recvmsg buf 16 iov 1 100 buf 1024 0", "recvmsg buf 16 iov 1 100 buf 4 0", "recvmsg buf 0 iov 1 100 null 0 0",
    "recvmsg buf 8 iov 1 100 null 0 0", "recvmsg buf 128 iov 1 100 null 0 0", "recvmsg buf -1 iov 1 100 null 0 0",
    "recvmsg null 16 iov 1 100 null 0 0", "recvmsg null 0 iov 1 100 null 0 0", "recvmsg bad 16 iov 1 100 null 0 0",
    "recvmsg buf 16 iov 0 0 null 0 0", "recvmsg buf 16 null 0 0 null 0 0", "recvmsg buf 16 null 1 0 null 0 0",
    "recvmsg buf 16 bad 1 4 null 0 0", "recvmsg buf 16 badbase 1 4 null 0 0", "recvmsg buf 16 iov 1024 4 null 0 0",
    "recvmsg buf 16 iov 1025 4 null 0 0", "recvmsg buf 16 iov -1 4 null 0 0", "recvmsg buf 16 iov 1 -1 null 0 0",
    "recvmsg buf 16 iov 1 4 bad 1024 0", "recvmsg buf 16 iov 1 4 null 1024 0", "recvmsg buf 16 iov 1 4 buf 1024 0x2000",
    "recvmsg buf 16 iov 1 100 buf 1024 0x40000000", "recvmsg buf 16 iov 1 100 buf 24 0", "recvmsg buf 16 iov 1 100 buf 40 0",
    "recvmsg buf 16 iov 1 100 buf 24 0x2000", "recvmsg null 0 iov 1 0 buf 1024 0x2000", "recvmmsg buf 0 0", "recvmmsg buf 1 0", "recvmmsg buf 3 0",
    "recvmmsg buf 3 0x10000", "recvmmsg buf 3 2", "recvmmsg null 1 0", "recvmmsg bad 1 0", "recvmmsg null 0 0",
    /* the rest */
    "ioctl 0x541b 0", "ioctl 0x541b null", "ioctl 0x541b bad", "ioctl 0x5411 0", "ioctl 0x5411 bad", "ioctl 0x8905 0",
    "ioctl 0x8905 bad", "ioctl 0x894b 0", "ioctl 0x894b bad", "ioctl 0x5421 1", "ioctl 0x5421 bad", "ioctl 0x5452 0",
    "ioctl 0x8904 0", "ioctl 0x8903 0", "ioctl 0x8902 0", "ioctl 0x8901 0", "ioctl 0x5401 0", "ioctl 0x5413 0",
    "ioctl 0x8906 0", "ioctl 0x8907 0", "ioctl 0 0", "ioctl 0x89ff 0", "ioctl 0xffffffff 0", "ioctl 0x1234567 0",
    "ioctl 0x8915 lab0", "ioctl 0x891b lab0", "ioctl 0x8921 lab0", "ioctl 0x8913 lab0",
    "ioctl 0x891d lab0", "ioctl 0x8933 lab0", "ioctl 0x8942 lab0", "ioctl 0x8917 lab0", "ioctl 0x8915 lo",
    "ioctl 0x8915 nobody", "ioctl 0x8933 nobody", "ioctl 0x8915 bad", "ioctl 0x8915 null", "ioctl 0x8933 bad",
    "ioctl 0x541b odd", "ioctl 0x5411 odd", "ioctl 0x5450 0", "ioctl 0x5451 0", "ioctl 0x5460 0", "ioctl 0x8910 0",
    "ioctl 0x8919 lo", "ioctl 0x891f lab0", "ioctl 0x8925 lab0", "ioctl 0x8935 lab0", "ioctl 0x8938 0", "ioctl 0x8954 bad",
    "ioctl 0x8913 nobody", "ioctl 0x8921 lo", "ioctl 0x8913 bad", "ioctl 0x8905 null", "ioctl 0x8905 odd", "ioctl 0x894b odd",
    /* descriptors */
    "dup2", "dup3 0", "dup3 0x80000", "dup3 1", "fcntl 0 50", "fcntl 1030 50", "fcntl 5 0", "fcntl 6 0", "fcntl 7 0", "fcntl 8 0",
    "fcntl 10 10", "fcntl 10 999", "fcntl 15 0", "fcntl 16 0", "fcntl 1024 0", "fcntl 1025 0", "fcntl 1026 0", "fcntl 3 0x7fffffff",
    "sendfile 4 null", "sendfile 4 100", "sendfile 0 null", "sendfile 4 -1", "sendfile 4 8190", "sendfile 4 9000",
    "sendfile 4 bad", "sendfile 5000 null", "sendfile-from", "copy_file_range", "tee", "vmsplice",
    "splice in 4 0", "splice in 0 0", "splice in 4 2", "splice in 100 0x80", "splice in -1 0", "splice in 4 2 offset",
    "splice out 4 0", "splice out 0 0", "splice out 4 4", "splice out 5000 2", "splice out 4 0x80", "splice out 4 0 offset",
    "preadv 0", "preadv -1", "preadv2 -1 0", "preadv2 -1 8", "preadv2 -1 0x80000000", "preadv2 0 0", "preadv2 -2 0", "pwritev 0", "pwritev2 -1 0",
    "pwritev2 -1 8", "pwritev2 -1 0x80000000", "pwritev2 0 0", "poll 0", "poll 1", "poll 4", "poll 2", "poll 0x2000", "poll 0x10", "poll -1",
    "pselect fd 0", "pselect fd -1", "pselect fd 1000000000", "pselect -1 0", "pselect 0 0", "epoll again 1",
    "epoll absent 1", "epoll null 1", "epoll itself 1", "epoll add 5", "epoll add 0x80000005", "epoll add 0x40000005",
    "epoll add 0x20000005", "epoll add 0x10000001", "epoll add 0x10000005", "epoll add 0", "mmap", "flock", "fallocate", "fdatasync", "fchdir", "openat",
    "readahead", "fadvise", "fstatfs", "sockatmark", "recvmmsg buf 3 0 0", "recvmmsg buf 3 0 -1", "recvmmsg buf 3 0 bad",
    "recvmmsg buf 3 0 1000000000", "recvmmsg buf 3 0x40 900000000", "recvmmsg buf 3 0x10000 bad",
    "fcntl 3 0", "fcntl 4 0x800", "fcntl 4 0xc00", "fcntl 4 0x2800", "fcntl 1 0", "fcntl 2 1", "fcntl 9 0", "fcntl 11 0",
    "fcntl 1031 0", "fcntl 1032 0", "fcntl 1033 0", "fcntl 1034 0", "fcntl 9999 0", "fstat", "lseek 0", "lseek 1", "lseek 9",
    "ftruncate", "fsync", "pread", "pwrite", "isatty", "select", "wait 1", "wait 0x2000", "dup", "timed",
    /* options with other lengths and places than the loops below */
    "getsockopt 1 3 null buf", "getsockopt 1 3 4 null", "getsockopt 1 3 4 bad", "getsockopt 1 3 4 readonly",
    "getsockopt 1 3 -1 buf", "getsockopt 1 3 0 buf", "getsockopt 1 3 0 null", "getsockopt 1 3 1 buf",
    "getsockopt 1 3 3 buf", "getsockopt 1 3 600 buf", "getsockopt 1 4 4 buf", "getsockopt 1 13 8 buf",
    "getsockopt 1 13 4 buf", "getsockopt 1 20 16 buf", "getsockopt 1 20 8 buf", "getsockopt 0 1 1 buf",
    "getsockopt 0 1 0 buf", "getsockopt 0 1 3 buf", "getsockopt 0 2 -1 buf", "getsockopt 6 1 0 buf", "getsockopt 6 1 1 buf",
    "getsockopt 6 1 -1 buf", "getsockopt 6 11 300 buf", "getsockopt 6 11 8 buf", "getsockopt 6 13 16 buf",
    "getsockopt 6 13 3 buf", "getsockopt 2 1 4 buf", "getsockopt -1 1 4 buf", "getsockopt 41 26 4 buf",
    "getsockopt 17 1 4 buf", "getsockopt 255 1 4 buf", "getsockopt 1 -1 4 buf", "getsockopt 1 0x7fffffff 4 buf",
    "setsockopt 1 2 1 4 null", "setsockopt 1 2 1 4 bad", "setsockopt 1 2 1 -1 buf", "setsockopt 1 2 1 0 buf",
    "setsockopt 1 2 1 3 buf", "setsockopt 1 2 1 600 buf", "setsockopt 1 13 1 8 buf", "setsockopt 1 13 1 4 buf",
    "setsockopt 1 20 1 8 buf", "setsockopt 1 20 1 16 buf", "setsockopt 1 20 -1 16 buf", "setsockopt 0 1 16 1 buf",
    "setsockopt 0 1 16 0 buf", "setsockopt 0 1 16 -1 buf", "setsockopt 0 2 0 1 buf", "setsockopt 0 2 64 1 buf",
    "setsockopt 6 1 1 1 buf", "setsockopt 6 1 1 3 buf", "setsockopt 6 1 1 4 bad", "setsockopt 6 1 1 -1 buf",
    "setsockopt 6 1 1 0 null", "setsockopt 2 1 1 4 buf", "setsockopt -1 1 1 4 buf", "setsockopt 41 26 1 4 buf",
    "setsockopt 17 1 1 4 buf", "setsockopt 255 1 1 4 buf", "setsockopt 1 -1 1 4 buf",
};

static const char *const for_tcp[] = {"@accept",    "@connect", "@send 10", "@send 1",    "@urgent", "@fin",
                                      "@close",     "@reset",   "@receive", "take"};
static const char *const for_udp[] = {"@datagram 10", "@datagram 0", "@datagram 3000", "@taken"};

static const char *const for_six[] = {"bind v4:anyP 16", "connect v4:peerL 16", "connect v4:peerD 16", "connect family:2 16",
                                      "sendto buf 4 0 v4:peerD 16", "sendto buf 4 0 family:2 16", "sendto buf 4 0 family:2 28",
                                      "bind family:2 16", "bind anyP 27", "bind anyP 24", "connect peerL 24", "connect peerD 27",
                                      "getsockname buf 24", "getsockname buf 28", "getpeername buf 24", "getpeername buf 28",
                                      "recvfrom buf 100 0 buf 28", "accept buf 28 0", "getsockopt 41 26 1 buf",
                                      "getsockopt 41 26 0 buf", "getsockopt 41 26 -1 buf", "setsockopt 41 26 1 1 buf",
                                      "setsockopt 41 26 1 0 buf", "setsockopt 41 26 1 -1 buf", "setsockopt 41 26 1 4 bad",
                                      "sendmsg v4:peerD 16 iov 1 4 null 0 0"};

static const char *const for_ping[] = {"send echo 16 0",  "send echo 8 0",  "send echo 7 0", "send echo 16 1",
                                       "send echo 16 0x4000", "send echo 2000 0", "sendto echo 16 0 peer0 16",
                                       "sendto echo 16 0 family:10 16", "sendto echo 16 0 any1 16",
                                       "sendto echo 16 0 broadcast 16", "sendto echo 16 0 peer0 15", "wait 1"};

/* ---- the whole list of a kind, made once ---- */

struct list {
    const char *kind;
    size_t count, plain, room;
    char **calls;
};

static const char *const for_icmp[] = {"send echo 16 0",  "send echo 8 0", "send echo 7 0", "sendto echo 16 0 peer0 16",
                                       "sendto echo 16 0 any1 16", "getsockopt 255 1 4 buf", "getsockopt 255 1 1 buf",
                                       "getsockopt 255 1 8 buf", "setsockopt 255 1 1 4 buf", "setsockopt 255 1 -1 4 buf",
                                       "setsockopt 255 1 -1 2 buf", "setsockopt 255 1 1 8 buf", "setsockopt 255 2 1 4 buf"};

static struct list lists[] = {{"tcp", 0, 0, 0, NULL}, {"udp", 0, 0, 0, NULL}, {"ping", 0, 0, 0, NULL}, {"raw", 0, 0, 0, NULL}, {"icmp", 0, 0, 0, NULL},
                              {"tcp6", 0, 0, 0, NULL}, {"udp6", 0, 0, 0, NULL}};

static void add(struct list *list, const char *text)
{
    if (list->count == list->room) {
        list->room = list->room * 2 + 256;
        list->calls = realloc(list->calls, list->room * sizeof *list->calls);
    }
    list->calls[list->count++] = strdup(text);
}

/* Each flag that there can be, by itself, with each of the calls that take flags. */
static void add_flags(struct list *list)
{
    static const char *const calls[] = {"send buf 4 0x%x", "sendto buf 4 0x%x peerD 16", "recv buf 8 0x%x",
                                        "recvmsg buf 16 iov 1 8 buf 1024 0x%x"};
    char text[96];
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        for (int bit = 0; bit < 32; bit++) {
            snprintf(text, sizeof text, calls[i], 1u << bit);
            add(list, text);
        }
}

/* The control messages of sending, well made and not. */
static void add_control(struct list *list, bool six)
{
    /* IP_TOS, IP_TTL, IP_PKTINFO; SCM_RIGHTS, SCM_CREDENTIALS, SO_PRIORITY, SO_MARK, SO_TIMESTAMPING, SCM_TXTIME,
     * SCM_TS_OPT_ID; UDP_SEGMENT; IPV6_PKTINFO, IPV6_HOPLIMIT, IPV6_TCLASS, IPV6_DONTFRAG. */
    static const struct {
        int level, type;
    } kinds[] = {{0, 1},  {0, 2},  {0, 8},  {1, 1},  {1, 2},    {1, 12},  {1, 36},  {1, 37},
                 {1, 61}, {1, 81}, {1, 99}, {0, 99}, {17, 103}, {17, 104}, {6, 1}, {41, 50}, {41, 52}, {41, 67}, {41, 62}};
    static const struct {
        int value, length;
    } values[] = {{0, 4}, {1, 4}, {255, 4}, {256, 4}, {-1, 4}, {1, 0}, {1, 1}, {1, 2}, {1, 3}, {1, 8}, {0, 12}, {0, 20}};
    char text[96];
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (size_t j = 0; j < sizeof values / sizeof values[0] && (six || kinds[i].level != 41 || j < 2); j++) {
            snprintf(text, sizeof text, "sendmsg peerD 16 iov 1 4 cmsg:%d:%d:%d:%d fit 0", kinds[i].level, kinds[i].type,
                     values[j].value, values[j].length);
            add(list, text);
        }
}

static void add_options(struct list *list, int level, int last)
{
    static const int values[] = {0, 1, 2, 1000, -1, 0x7fffffff};
    char text[96];
    for (int option = 0; option <= last; option++) {
        snprintf(text, sizeof text, "getsockopt %d %d 4 buf", level, option);
        add(list, text);
        snprintf(text, sizeof text, "getsockopt %d %d 600 buf", level, option);
        add(list, text);
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
            snprintf(text, sizeof text, "setsockopt %d %d %d 4 buf", level, option, values[i]);
            add(list, text);
        }
    }
}

static struct list *list_of(const char *kind)
{
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
        struct list *list = &lists[i];
        if (strcmp(list->kind, kind) != 0)
            continue;
        if (list->count > 0)
            return list;
        for (size_t j = 0; j < sizeof for_all / sizeof for_all[0]; j++)
            add(list, for_all[j]);
        bool stream = strncmp(kind, "tcp", 3) == 0, datagrams = strncmp(kind, "udp", 3) == 0, six = strchr(kind, '6') != NULL;
        add_flags(list);
        add_control(list, six);
        if (six)
            for (size_t j = 0; j < sizeof for_six / sizeof for_six[0]; j++)
                add(list, for_six[j]);
        if (stream)
            for (size_t j = 0; j < sizeof for_tcp / sizeof for_tcp[0]; j++)
                add(list, for_tcp[j]);
        if (datagrams)
            for (size_t j = 0; j < sizeof for_udp / sizeof for_udp[0]; j++)
                add(list, for_udp[j]);
        if (strcmp(kind, "ping") == 0)
            for (size_t j = 0; j < sizeof for_ping / sizeof for_ping[0]; j++)
                add(list, for_ping[j]);
        if (strcmp(kind, "icmp") == 0)
            for (size_t j = 0; j < sizeof for_icmp / sizeof for_icmp[0]; j++)
                add(list, for_icmp[j]);
        list->plain = list->count;
        add_options(list, 1, 84);
        add_options(list, 0, 54);
        if (stream)
            add_options(list, 6, 46);
        if (datagrams)
            add_options(list, 17, 110);
        if (six)
            add_options(list, 41, 79);
        return list;
    }
    return &lists[0];
}

size_t plain_call_count(const char *kind)
{
    return list_of(kind)->plain;
}

size_t call_count(const char *kind)
{
    return list_of(kind)->count;
}

const char *call_text(const char *kind, size_t index)
{
    return list_of(kind)->calls[index];
}
