/* A socket connected to itself (the simultaneous open of RFC 9293 section 3.5) and connections within this host. */
#include "t.h"

/* test REF T-01 */
int main(void)
{
    char data[8] = "";
    int port = t_free_port();
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;

    t_begin();
    int fd = MUST(t_tcp(0));
    MUST(t_bind(fd, T_LOCAL, port));
    CHECK_EQ(t_connect(fd, T_LOCAL, port), 0, "connect to oneself");
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&name, &length), 0, "getpeername");
    CHECK(t_is(name, T_LOCAL) && ntohs(name.sin_port) == port, "is getsockname");
    CHECK_EQ(write(fd, "mirror", 6), 6, "write");
    CHECK_EQ(t_read_all(fd, data, 6), 6, "comes back");
    CHECK(memcmp(data, "mirror", 6) == 0, "the same");
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "our FIN");
    CHECK_EQ(read(fd, data, 1), 0, "is the peer's too");
    close(fd);

    int listener = t_listener(0, &port);
    fd = MUST(t_tcp(0));
    CHECK_EQ(t_connect(fd, T_LOCAL, port), 0, "connect to our own listener");
    int other = MUST(accept(listener, NULL, NULL));
    CHECK_EQ(write(fd, "ab", 2), 2, "write one way");
    CHECK_EQ(t_read_all(other, data, 2), 2, "read");
    CHECK_EQ(write(other, "cde", 3), 3, "the other way");
    CHECK_EQ(t_read_all(fd, data, 3), 3, "read");
    close(fd);
    CHECK_EQ(read(other, data, 1), 0, "close is seen");
    close(other);
    close(listener);

    fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, T_LOCAL, port), ECONNREFUSED, "our own closed port: ECONNREFUSED");
    return t_end();
}
