/* Options that an accepted socket has from its listener. */
#include "t.h"

/* test REF L-03 */
int main(void)
{
    static const struct {
        int level, name, value, shown;
        const char *rule;
    } table[] = {{SOL_SOCKET, SO_KEEPALIVE, 1, 1, "SO_KEEPALIVE"},
                 {SOL_SOCKET, SO_REUSEADDR, 1, 1, "SO_REUSEADDR"},
                 {SOL_SOCKET, SO_RCVBUF, 20000, 40000, "SO_RCVBUF, doubled"},
                 {SOL_SOCKET, SO_SNDBUF, 30000, 60000, "SO_SNDBUF, doubled"},
                 {SOL_SOCKET, SO_OOBINLINE, 1, 1, "SO_OOBINLINE"},
                 {IPPROTO_TCP, TCP_NODELAY, 1, 1, "TCP_NODELAY"},
                 {IPPROTO_TCP, TCP_KEEPIDLE, 77, 77, "TCP_KEEPIDLE"},
                 {IPPROTO_TCP, TCP_KEEPINTVL, 7, 7, "TCP_KEEPINTVL"},
                 {IPPROTO_TCP, TCP_KEEPCNT, 5, 5, "TCP_KEEPCNT"},
                 {IPPROTO_TCP, TCP_USER_TIMEOUT, 9000, 9000, "TCP_USER_TIMEOUT"},
                 {IPPROTO_TCP, TCP_LINGER2, 11, 11, "TCP_LINGER2"},
                 {IPPROTO_IP, IP_TTL, 33, 33, "IP_TTL"}};
    int port;

    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    int listener = t_listener(0, &port);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK_EQ(t_set_option(listener, table[i].level, table[i].name, table[i].value), 0, "%s: set on the listener",
                 table[i].rule);
    MUST(t_set_linger(listener, 1, 4));
    MUST(t_set_timeout(listener, SO_RCVTIMEO, 4000));
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    int fd = MUST(accept(listener, NULL, NULL));
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK_EQ(t_option(fd, table[i].level, table[i].name), table[i].shown, "%s: inherited", table[i].rule);
    struct linger linger = {0};
    socklen_t length = sizeof linger;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length), 0, "SO_LINGER");
    CHECK(linger.l_onoff == 1 && linger.l_linger == 4, "SO_LINGER: inherited");
    struct timeval timeout = {0};
    length = sizeof timeout;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, &length), 0, "SO_RCVTIMEO");
    CHECK_EQ(timeout.tv_sec, 4, "SO_RCVTIMEO: inherited");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 0, "SO_ACCEPTCONN is not");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ERROR), 0, "SO_ERROR is 0");
    return t_end();
}
