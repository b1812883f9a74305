/* connect() to broadcast, multicast, wildcard and loopback addresses. */
#include "t.h"

/* test REF C-07 */
/* test RFC 9293 §3.9.1.1 (MUST-46) */
int main(void)
{
    int port;

    t_begin();
    int fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, T_BROADCAST, 80), ENETUNREACH, "TCP to the subnet's broadcast: ENETUNREACH");
    CHECK_ERRNO(t_connect(fd, "255.255.255.255", 80), ENETUNREACH, "TCP to the limited broadcast: ENETUNREACH");
    CHECK_ERRNO(t_connect(fd, "224.0.0.1", 80), ENETUNREACH, "TCP to a group: ENETUNREACH");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "the socket is as before");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "and connects");
    close(fd);

    fd = MUST(t_udp(0));
    CHECK_ERRNO(t_connect(fd, T_BROADCAST, 9), EACCES, "UDP to the subnet's broadcast without SO_BROADCAST: EACCES");
    CHECK_ERRNO(t_connect(fd, "255.255.255.255", 9), EACCES, "UDP to the limited broadcast without it: EACCES");
    MUST(t_set_option(fd, SOL_SOCKET, SO_BROADCAST, 1));
    CHECK_EQ(t_connect(fd, T_BROADCAST, 9), 0, "with SO_BROADCAST: 0");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_BROADCAST), 1, "SO_BROADCAST reads 1");
    close(fd);

    /* A bound source that cannot be used beyond this machine. */
    fd = MUST(t_tcp(0));
    MUST(t_bind(fd, "127.0.0.1", 0));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINVAL, "from 127.0.0.1 to another network: EINVAL");
    close(fd);
    fd = MUST(t_udp(0));
    MUST(t_bind(fd, "127.0.0.1", 0));
    struct sockaddr_in peer = t_address(T_PEER, PORT_UDP_ECHO);
    CHECK_ERRNO(sendto(fd, "l", 1, 0, (struct sockaddr *)&peer, sizeof peer), EINVAL, "a datagram from there: EINVAL");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_UDP_ECHO), EINVAL, "nor can it be connected: EINVAL");
    struct sockaddr_in own = t_sockname(fd);
    CHECK_EQ(sendto(fd, "l", 1, 0, (struct sockaddr *)&own, sizeof own), 1, "to itself it goes");
    close(fd);

    int listener = MUST(t_tcp(0));
    MUST(t_bind(listener, T_LOCAL, 0));
    MUST(listen(listener, 4));
    port = t_local_port(listener);
    fd = MUST(t_tcp(0));
    MUST(t_bind(fd, T_LOCAL, 0));
    CHECK_EQ(t_connect(fd, "0.0.0.0", port), 0, "0.0.0.0 means the bound address");
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&name, &length), 0, "getpeername");
    CHECK(t_is(name, T_LOCAL), "shows it");
    close(fd);
    close(listener);
    return t_end();
}
