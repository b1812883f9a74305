/* connect() from a bound socket: which address and port the peer and getsockname see. */
#include "t.h"

static void check_from(const char *ip, bool explicit_port, const char *name)
{
    int port = explicit_port ? t_free_port() : 0;
    int fd = MUST(t_tcp(0));
    CHECK_EQ(t_bind(fd, ip, port), 0, "%s: bind", name);
    CHECK(t_is(t_sockname(fd), ip), "%s: getsockname shows the bound address", name);
    int bound = t_local_port(fd);
    CHECK(explicit_port ? bound == port : bound != 0, "%s: and the port", name);
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "%s: connect", name);
    CHECK(t_is(t_sockname(fd), T_LOCAL), "%s: the source is our address", name);
    CHECK_EQ(t_local_port(fd), bound, "%s: the port stays", name);
    close(fd);
}

/* test REF C-08 */
/* test REF C-10 */
/* test RFC 9293 §3.9.1.1 (MUST-43, MUST-44) */
int main(void)
{
    t_begin();
    check_from(T_LOCAL, false, "our address, port 0");
    check_from(T_LOCAL, true, "our address, chosen port");
    check_from("0.0.0.0", false, "wildcard, port 0");
    check_from("0.0.0.0", true, "wildcard, chosen port");

    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK(t_is(t_sockname(fd), T_LOCAL), "unbound: the source is our address");
    int port = t_local_port(fd);
    CHECK(port >= 32768 && port <= 60999, "unbound: the port is of the range");

    /* Uniqueness is of the 4-tuple: one port can serve two destinations. */
    int first = MUST(t_tcp(0)), second = MUST(t_tcp(0)), third = MUST(t_tcp(0));
    MUST(t_set_option(first, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(t_set_option(second, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(t_set_option(third, SOL_SOCKET, SO_REUSEADDR, 1));
    MUST(t_bind(first, T_LOCAL, 0));
    port = t_local_port(first);
    CHECK_EQ(t_bind(second, T_LOCAL, port), 0, "SO_REUSEADDR: two sockets on one port");
    CHECK_EQ(t_bind(third, T_LOCAL, port), 0, "SO_REUSEADDR: three");
    CHECK_EQ(t_connect(first, T_PEER, PORT_ECHO), 0, "the first connects");
    CHECK_EQ(t_connect(second, T_PEER, PORT_DISCARD), 0, "the second connects elsewhere");
    CHECK_ERRNO(t_connect(third, T_PEER, PORT_ECHO), EADDRNOTAVAIL, "the third to where the first is: EADDRNOTAVAIL");
    return t_end();
}
