/* getsockname and getpeername: arguments, truncation, states. */
#include "t.h"

/* test REF C-01 */
int main(void)
{
    struct sockaddr_in name;
    struct sockaddr *address = (struct sockaddr *)&name;
    socklen_t length = sizeof name;
    int pipes[2];

    t_begin();
    MUST(pipe(pipes));
    int fd = MUST(t_tcp(0));
    CHECK_EQ(getsockname(fd, address, &length), 0, "fresh: getsockname");
    CHECK(t_is(name, "0.0.0.0") && name.sin_port == 0, "fresh: nothing");
    CHECK_ERRNO(getpeername(fd, address, &length), ENOTCONN, "fresh: getpeername ENOTCONN");
    MUST(t_connect(fd, T_PEER, PORT_ECHO));
    length = sizeof name;
    CHECK_EQ(getpeername(fd, address, &length), 0, "connected: getpeername");
    CHECK(t_is(name, T_PEER) && ntohs(name.sin_port) == PORT_ECHO, "connected: the peer");
    CHECK_EQ(length, sizeof name, "connected: the length");
    CHECK_EQ(getsockname(fd, address, &length), 0, "connected: getsockname");
    CHECK(t_is(name, T_LOCAL) && name.sin_port != 0, "connected: our address and port");

    memset(&name, 0xee, sizeof name);
    length = 3;
    CHECK_EQ(getpeername(fd, address, &length), 0, "room for three bytes");
    CHECK_EQ(length, sizeof name, "the full length is told");
    CHECK(name.sin_family == AF_INET && ((unsigned char *)&name)[3] == 0xee, "three bytes are written");
    length = 0;
    CHECK_EQ(getsockname(fd, address, &length), 0, "no room");
    CHECK_EQ(length, sizeof name, "the full length is told");
    length = 128;
    CHECK_EQ(getsockname(fd, address, &length), 0, "more room");
    CHECK_EQ(length, sizeof name, "the length of the name");
    length = (socklen_t)-1;
    CHECK_ERRNO(getsockname(fd, address, &length), EINVAL, "negative length: EINVAL");
    length = sizeof name;
    CHECK_ERRNO(getsockname(fd, t_nowhere, &length), EFAULT, "name nowhere: EFAULT");
    CHECK_ERRNO(getsockname(fd, address, t_nowhere), EFAULT, "length nowhere: EFAULT");
    CHECK_ERRNO(getpeername(fd, t_nowhere, &length), EFAULT, "peer's name nowhere: EFAULT");
    CHECK_ERRNO(getsockname(999, address, &length), EBADF, "no descriptor: EBADF");
    CHECK_ERRNO(getpeername(pipes[0], address, &length), ENOTSOCK, "a pipe: ENOTSOCK");
    CHECK_ERRNO(getsockname(pipes[0], address, &length), ENOTSOCK, "a pipe: ENOTSOCK");

    int udp = MUST(t_udp(0));
    MUST(t_connect(udp, T_PEER, PORT_UDP_ECHO));
    length = sizeof name;
    CHECK_EQ(getpeername(udp, address, &length), 0, "datagram: getpeername");
    CHECK(t_is(name, T_PEER) && ntohs(name.sin_port) == PORT_UDP_ECHO, "datagram: the peer");
    CHECK(t_is(t_sockname(udp), T_LOCAL) && t_local_port(udp) != 0, "datagram: connect chose our address and port");
    return t_end();
}
