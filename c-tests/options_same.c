/* getsockopt on fresh, connected and listening sockets of ours gives what a socket of the kernel's gives: one that is
 * bound to 127.0.0.1 is the kernel's wherever this runs. Values that belong to the path (MSS, MTU, buffers that grow)
 * are compared by their length only, as is the congestion control, of which the kernel may have others. */
#include <sys/ioctl.h>

#include "t.h"

enum how { VALUE, LENGTH };

static const struct option {
    const char *text;
    int level, name;
    enum how how;
} options[] = {
#define S(name) {#name, SOL_SOCKET, name, VALUE}
#define I(name) {#name, IPPROTO_IP, name, VALUE}
#define T(name) {#name, IPPROTO_TCP, name, VALUE}
    S(SO_DEBUG), S(SO_REUSEADDR), S(SO_TYPE), S(SO_ERROR), S(SO_DONTROUTE), S(SO_BROADCAST), S(SO_KEEPALIVE),
    S(SO_OOBINLINE), S(SO_NO_CHECK), S(SO_PRIORITY), S(SO_LINGER), S(SO_REUSEPORT),
    S(SO_RCVLOWAT), S(SO_SNDLOWAT), S(SO_RCVTIMEO), S(SO_SNDTIMEO), S(SO_BINDTODEVICE), S(SO_TIMESTAMP),
    S(SO_ACCEPTCONN), S(SO_TIMESTAMPNS), S(SO_MARK), S(SO_PROTOCOL), S(SO_DOMAIN),
    S(SO_BUSY_POLL),
    {"SO_RCVBUF", SOL_SOCKET, SO_RCVBUF, LENGTH}, {"SO_SNDBUF", SOL_SOCKET, SO_SNDBUF, LENGTH},
    I(IP_TOS), I(IP_TTL), I(IP_OPTIONS), I(IP_PKTINFO),
    I(IP_MTU_DISCOVER), I(IP_RECVERR), I(IP_RECVTTL), I(IP_RECVTOS), I(IP_FREEBIND),
    I(IP_ORIGDSTADDR), I(IP_BIND_ADDRESS_NO_PORT),
    I(IP_MULTICAST_IF), I(IP_MULTICAST_TTL), I(IP_MULTICAST_LOOP),
    {"IP_MTU", IPPROTO_IP, IP_MTU, LENGTH},
    T(TCP_NODELAY), T(TCP_CORK), T(TCP_KEEPIDLE), T(TCP_KEEPINTVL), T(TCP_KEEPCNT), T(TCP_SYNCNT), T(TCP_LINGER2),
    T(TCP_DEFER_ACCEPT), {"TCP_CONGESTION", IPPROTO_TCP, TCP_CONGESTION, LENGTH}, T(TCP_USER_TIMEOUT), T(TCP_FASTOPEN), T(TCP_FASTOPEN_CONNECT),
    {"TCP_MAXSEG", IPPROTO_TCP, TCP_MAXSEG, LENGTH}, {"TCP_WINDOW_CLAMP", IPPROTO_TCP, TCP_WINDOW_CLAMP, LENGTH},
    {"TCP_QUICKACK", IPPROTO_TCP, TCP_QUICKACK, LENGTH}, {"TCP_NOTSENT_LOWAT", IPPROTO_TCP, TCP_NOTSENT_LOWAT, VALUE},
    {"option 259 of SOL_SOCKET", SOL_SOCKET, 259, VALUE}, {"option 259 of IPPROTO_IP", IPPROTO_IP, 259, VALUE},
    {"option 259 of IPPROTO_TCP", IPPROTO_TCP, 259, VALUE}, {"level 199", 199, 1, VALUE},
#undef S
#undef I
#undef T
};

struct answer {
    int result, error;
    socklen_t length;
    unsigned char value[64];
};

static struct answer ask(int fd, const struct option *option, socklen_t room)
{
    struct answer answer = {.length = room};
    errno = 0;
    answer.result = getsockopt(fd, option->level, option->name, answer.value, &answer.length);
    answer.error = answer.result ? errno : 0;
    return answer;
}

static void show(const char *whose, const struct answer *answer)
{
    char text[160] = "";
    for (socklen_t i = 0; i < answer->length && i < 32; i++)
        sprintf(text + strlen(text), " %02x", answer->value[i]);
    t_print("#   %s: %d %s, length %u:%s\n", whose, answer->result,
            answer->error ? strerrorname_np(answer->error) : "", answer->length, text);
}

static void same(const char *what, int ours, int kernels)
{
    for (size_t i = 0; i < sizeof options / sizeof options[0]; i++) {
        const struct option *option = &options[i];
        struct answer mine = ask(ours, option, sizeof mine.value), theirs = ask(kernels, option, sizeof mine.value);
        bool equal = mine.result == theirs.result && mine.error == theirs.error;
        if (equal && mine.result == 0)
            equal = mine.length == theirs.length &&
                    (option->how == LENGTH || memcmp(mine.value, theirs.value, mine.length) == 0);
        CHECK(equal, "%s: %s", what, option->text);
        if (!equal) {
            show("ours", &mine);
            show("the kernel's", &theirs);
        }
        /* With room for one byte. */
        mine = ask(ours, option, 1);
        theirs = ask(kernels, option, 1);
        equal = mine.result == theirs.result && mine.error == theirs.error;
        if (equal && mine.result == 0)
            equal = mine.length == theirs.length && (option->how == LENGTH || mine.value[0] == theirs.value[0]);
        CHECK(equal, "%s: %s with room for one byte", what, option->text);
        if (!equal) {
            show("ours", &mine);
            show("the kernel's", &theirs);
        }
    }
}

static int local(int fd)
{
    MUST(t_bind(fd, "127.0.0.1", 0));
    return fd;
}

/* test REF D-06 */
int main(void)
{
    t_begin();
    int ours = MUST(t_tcp(0)), kernels = local(MUST(t_tcp(0)));
    same("fresh stream", ours, kernels);
    CHECK_EQ(sockatmark(ours), 0, "no mark on a stream without urgent data");
    MUST(t_bind(ours, T_LOCAL, 0));
    MUST(listen(ours, 4));
    MUST(listen(kernels, 4));
    same("listener", ours, kernels);
    int port = t_local_port(kernels), mine = MUST(t_tcp(0)), theirs = MUST(t_tcp(0));
    MUST(t_connect(mine, T_PEER, PORT_ECHO));
    MUST(t_connect(theirs, "127.0.0.1", port));
    same("connection", mine, theirs);
    CHECK_EQ(sockatmark(mine), 0, "no mark on a connection without urgent data");
    int mark = -1;
    CHECK_EQ(ioctl(mine, SIOCATMARK, &mark), 0, "SIOCATMARK");
    CHECK_EQ(mark, 0, "says so too");
    close(mine);
    close(theirs);
    close(ours);
    close(kernels);

    ours = MUST(t_udp(0));
    kernels = local(MUST(t_udp(0)));
    same("fresh datagram socket", ours, kernels);
    CHECK_ERRNO(sockatmark(ours), ENOTTY, "a datagram socket has no mark: ENOTTY");
    MUST(t_connect(ours, T_PEER, PORT_UDP_ECHO));
    MUST(t_connect(kernels, "127.0.0.1", 9));
    same("connected datagram socket", ours, kernels);
    close(ours);
    close(kernels);
    return t_end();
}
