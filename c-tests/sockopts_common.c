/* Common options of SOL_SOCKET, IPPROTO_TCP and IPPROTO_IP: values, lengths, refusals. */
#include "t.h"

struct option {
    int level, name, value, shown;
    const char *rule;
};

static void check_table(int fd, const struct option *table, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        CHECK_EQ(t_set_option(fd, table[i].level, table[i].name, table[i].value), 0, "%s: set", table[i].rule);
        CHECK_EQ(t_option(fd, table[i].level, table[i].name), table[i].shown, "%s: reads back", table[i].rule);
    }
}

/* test REF D-06 */
static void read_only(void)
{
    int fd = MUST(t_tcp(0)), udp = MUST(t_udp(0));
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_TYPE), SOCK_STREAM, "SO_TYPE stream");
    CHECK_EQ(t_option(udp, SOL_SOCKET, SO_TYPE), SOCK_DGRAM, "SO_TYPE datagram");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_DOMAIN), AF_INET, "SO_DOMAIN");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP, "SO_PROTOCOL TCP");
    CHECK_EQ(t_option(udp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_UDP, "SO_PROTOCOL UDP");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 0, "SO_ACCEPTCONN");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ERROR), 0, "SO_ERROR");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_TYPE, 1), ENOPROTOOPT, "SO_TYPE cannot be set");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_ERROR, 1), ENOPROTOOPT, "SO_ERROR cannot be set");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_ACCEPTCONN, 1), ENOPROTOOPT, "SO_ACCEPTCONN cannot be set");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_PROTOCOL, 1), ENOPROTOOPT, "SO_PROTOCOL cannot be set");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, 9999, 1), ENOPROTOOPT, "unknown socket option");
    CHECK_ERRNO(t_set_option(fd, IPPROTO_TCP, 9999, 1), ENOPROTOOPT, "unknown TCP option");
    CHECK_ERRNO(t_set_option(fd, IPPROTO_IP, 9999, 1), ENOPROTOOPT, "unknown IP option");
    CHECK_ERRNO(t_option(fd, SOL_SOCKET, 9999), ENOPROTOOPT, "unknown socket option, read");
    CHECK_ERRNO(t_option(fd, IPPROTO_TCP, 9999), ENOPROTOOPT, "unknown TCP option, read");
    CHECK_ERRNO(t_option(fd, IPPROTO_IP, 9999), ENOPROTOOPT, "unknown IP option, read");
    CHECK_ERRNO(t_option(fd, 9999, 1), EOPNOTSUPP, "unknown level, read");
    CHECK_ERRNO(t_set_option(udp, IPPROTO_TCP, TCP_NODELAY, 1), ENOPROTOOPT, "a TCP option on a datagram socket");
    CHECK_ERRNO(t_option(999, SOL_SOCKET, SO_TYPE), EBADF, "no descriptor");
    close(fd);
    close(udp);
}

static void values(void)
{
    static const struct option table[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1, 1, "SO_REUSEADDR"},
        {SOL_SOCKET, SO_REUSEADDR, 7, 1, "SO_REUSEADDR 7 is 1"},
        {SOL_SOCKET, SO_REUSEADDR, 0, 0, "SO_REUSEADDR 0"},
        {SOL_SOCKET, SO_REUSEPORT, 1, 1, "SO_REUSEPORT"},
        {SOL_SOCKET, SO_KEEPALIVE, 5, 1, "SO_KEEPALIVE"},
        {SOL_SOCKET, SO_OOBINLINE, 1, 1, "SO_OOBINLINE"},
        {SOL_SOCKET, SO_DONTROUTE, 1, 1, "SO_DONTROUTE"},
        {SOL_SOCKET, SO_DONTROUTE, 0, 0, "SO_DONTROUTE 0"},
        {SOL_SOCKET, SO_RCVBUF, 20000, 40000, "SO_RCVBUF is doubled"},
        {SOL_SOCKET, SO_SNDBUF, 20000, 40000, "SO_SNDBUF is doubled"},
        {SOL_SOCKET, SO_RCVBUF, 1, 2304, "SO_RCVBUF has a least value"},
        {SOL_SOCKET, SO_SNDBUF, 1, 4608, "SO_SNDBUF has a least value"},
        {SOL_SOCKET, SO_RCVLOWAT, 3, 3, "SO_RCVLOWAT"},
        {SOL_SOCKET, SO_RCVLOWAT, 0, 1, "SO_RCVLOWAT 0 is 1"},
        {SOL_SOCKET, SO_PRIORITY, 4, 4, "SO_PRIORITY"},
        {IPPROTO_TCP, TCP_NODELAY, 9, 1, "TCP_NODELAY"},
        {IPPROTO_TCP, TCP_NODELAY, 0, 0, "TCP_NODELAY 0"},
        {IPPROTO_TCP, TCP_CORK, 1, 1, "TCP_CORK"},
        {IPPROTO_TCP, TCP_CORK, 0, 0, "TCP_CORK 0"},
        {IPPROTO_TCP, TCP_KEEPIDLE, 10, 10, "TCP_KEEPIDLE"},
        {IPPROTO_TCP, TCP_KEEPINTVL, 11, 11, "TCP_KEEPINTVL"},
        {IPPROTO_TCP, TCP_KEEPCNT, 12, 12, "TCP_KEEPCNT"},
        {IPPROTO_TCP, TCP_SYNCNT, 3, 3, "TCP_SYNCNT"},
        {IPPROTO_TCP, TCP_LINGER2, 20, 20, "TCP_LINGER2"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, 5000, 5000, "TCP_USER_TIMEOUT"},
        {IPPROTO_TCP, TCP_NOTSENT_LOWAT, 4096, 4096, "TCP_NOTSENT_LOWAT"},
        {IPPROTO_IP, IP_TTL, 44, 44, "IP_TTL"},
        {IPPROTO_IP, IP_TTL, -1, 64, "IP_TTL -1 is the default"},
        {IPPROTO_IP, IP_TOS, 0x10, 0x10, "IP_TOS"},
        {IPPROTO_IP, IP_TOS, 0x13, 0x10, "IP_TOS of a stream keeps the ECN bits"},
        {IPPROTO_IP, IP_RECVTTL, 1, 1, "IP_RECVTTL"},
        {IPPROTO_IP, IP_PKTINFO, 1, 1, "IP_PKTINFO"},
        {IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT, IP_PMTUDISC_DONT, "IP_MTU_DISCOVER"},
    };
    static const struct option refused[] = {
        {IPPROTO_TCP, TCP_KEEPIDLE, 0, EINVAL, "TCP_KEEPIDLE 0"},
        {IPPROTO_TCP, TCP_KEEPIDLE, 32768, EINVAL, "TCP_KEEPIDLE too large"},
        {IPPROTO_TCP, TCP_KEEPINTVL, 0, EINVAL, "TCP_KEEPINTVL 0"},
        {IPPROTO_TCP, TCP_KEEPCNT, 128, EINVAL, "TCP_KEEPCNT 128"},
        {IPPROTO_TCP, TCP_SYNCNT, 0, EINVAL, "TCP_SYNCNT 0"},
        {IPPROTO_TCP, TCP_SYNCNT, 128, EINVAL, "TCP_SYNCNT 128"},
        {IPPROTO_TCP, TCP_MAXSEG, 5, EINVAL, "TCP_MAXSEG 5"},
        {IPPROTO_TCP, TCP_USER_TIMEOUT, -1, EINVAL, "TCP_USER_TIMEOUT -1"},
        {IPPROTO_IP, IP_TTL, 0, EINVAL, "IP_TTL 0"},
        {IPPROTO_IP, IP_TTL, 256, EINVAL, "IP_TTL 256"},
        {IPPROTO_IP, IP_MTU_DISCOVER, 99, EINVAL, "IP_MTU_DISCOVER 99"},
    };
    int fd = MUST(t_tcp(0));
    check_table(fd, table, sizeof table / sizeof table[0]);
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        CHECK_ERRNO(t_set_option(fd, refused[i].level, refused[i].name, refused[i].value), refused[i].shown, "%s: %s",
                    refused[i].rule, strerrorname_np(refused[i].shown));
    CHECK_ERRNO(t_option(fd, IPPROTO_IP, IP_MTU), ENOTCONN, "IP_MTU without a connection: ENOTCONN");
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_MAXSEG), 536, "TCP_MAXSEG without a connection: 536");
    CHECK_EQ(t_set_option(fd, IPPROTO_TCP, TCP_MAXSEG, 1000), 0, "TCP_MAXSEG 1000");
    close(fd);
}

static void lengths(void)
{
    unsigned char bytes[16];
    int value = 1, fd = MUST(t_tcp(0));
    socklen_t length;
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 3), EINVAL, "set with three bytes: EINVAL");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, 0), EINVAL, "set with none: EINVAL");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, (socklen_t)-1), EINVAL, "set with -1: EINVAL");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, t_nowhere, 4), EFAULT, "set from nowhere: EFAULT");
    CHECK_ERRNO(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, 1), EINVAL, "a TCP option with one byte: EINVAL");
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_TTL, &value, 1), 0, "an IP option with one byte: taken");
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, (int[4]){1}, 16), 0, "set with sixteen: taken");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_LINGER, &value, 4), EINVAL, "SO_LINGER with four bytes: EINVAL");

    memset(bytes, 0xee, sizeof bytes);
    length = 2;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bytes, &length), 0, "read with two bytes");
    CHECK(length == 2 && bytes[0] == 1 && bytes[1] == 0 && bytes[2] == 0xee, "gives two bytes");
    length = 16;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bytes, &length), 0, "read with sixteen");
    CHECK_EQ(length, 4, "gives four");
    length = (socklen_t)-1;
    CHECK_ERRNO(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bytes, &length), EINVAL, "read with -1: EINVAL");
    length = 4;
    CHECK_ERRNO(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, t_nowhere, &length), EFAULT, "read to nowhere: EFAULT");
    CHECK_ERRNO(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, bytes, t_nowhere), EFAULT, "length nowhere: EFAULT");
    length = 1;
    CHECK_EQ(getsockopt(fd, IPPROTO_IP, IP_TTL, bytes, &length), 0, "an IP option with one byte");
    CHECK(length == 1 && bytes[0] == 1, "gives the value in it");
    close(fd);
}

static void connected(void)
{
    char name[32] = "";
    socklen_t length = sizeof name;
    int port, fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(t_tcp_state(fd), TCP_ESTABLISHED, "TCP_INFO says ESTABLISHED");
    CHECK_EQ(t_option(fd, IPPROTO_IP, IP_MTU), 1500, "IP_MTU");
    int segment = t_option(fd, IPPROTO_TCP, TCP_MAXSEG);
    CHECK(segment == 1448 || segment == 1460, "TCP_MAXSEG is that of the link");
    struct tcp_info info = {0};
    length = sizeof info;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0, "TCP_INFO");
    CHECK((int)info.tcpi_snd_mss == segment, "its MSS agrees");
    CHECK(info.tcpi_options & TCPI_OPT_SACK && info.tcpi_options & TCPI_OPT_WSCALE, "SACK and window scale are on");
    length = 8;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0, "TCP_INFO with eight bytes");
    CHECK_EQ(length, 8, "gives eight");
    length = sizeof name;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length), 0, "TCP_CONGESTION");
    CHECK(name[0] != 0, "has a name");
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "reno", 4), 0, "reno can be chosen");
    memset(name, 0, sizeof name);
    length = sizeof name;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length), 0, "TCP_CONGESTION");
    CHECK(strcmp(name, "reno") == 0, "is reno");
    CHECK_ERRNO(setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "no-such", 7), ENOENT, "an unknown name: ENOENT");
    struct linger linger = {1, 9};
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0, "SO_LINGER");
    linger = (struct linger){0, 0};
    length = sizeof linger;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length), 0, "SO_LINGER reads back");
    CHECK(linger.l_onoff == 1 && linger.l_linger == 9, "its values");
    MUST(t_set_linger(fd, 0, 0));
    CHECK_EQ(t_set_option(fd, IPPROTO_TCP, TCP_QUICKACK, 1), 0, "TCP_QUICKACK");
    close(fd);
    fd = t_listener(0, &port);
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1, "SO_ACCEPTCONN of a listener");
    CHECK_EQ(t_tcp_state(fd), TCP_LISTEN, "TCP_INFO says LISTEN");
    close(fd);
}

int main(void)
{
    t_begin();
    read_only();
    values();
    lengths();
    connected();
    return t_end();
}
