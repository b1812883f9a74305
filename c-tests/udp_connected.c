/* Connected datagram sockets: filter, ICMP errors, shutdown. */
#include "t.h"

/* test REF D-03 */
/* test REF C-21 */
int main(void)
{
    char data[16];

    t_begin();
    int fd = MUST(t_udp(0));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_UDP_ECHO), 0, "connect");
    CHECK(t_is(t_sockname(fd), T_LOCAL), "chose our address");
    CHECK_EQ(write(fd, "abc", 3), 3, "write");
    CHECK_EQ(read(fd, data, sizeof data), 3, "read");
    struct sockaddr_in other = t_address(T_PEER, PORT_UDP_SOURCE);
    CHECK_EQ(sendto(fd, "?", 1, 0, (struct sockaddr *)&other, sizeof other), 1, "sendto another address is allowed");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 200));
    CHECK_ERRNO(recv(fd, data, sizeof data, 0), EAGAIN, "its answer is filtered out");
    close(fd);

    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_STRANGER));
    MUST(write(fd, "abc", 3));
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 200));
    CHECK_ERRNO(recv(fd, data, sizeof data, 0), EAGAIN, "an answer from another port is filtered out");
    close(fd);
    fd = MUST(t_udp(0));
    other = t_address(T_PEER, PORT_UDP_STRANGER);
    MUST(sendto(fd, "abc", 3, 0, (struct sockaddr *)&other, sizeof other));
    CHECK_EQ(recv(fd, data, sizeof data, 0), 3, "an unconnected socket gets it");
    close(fd);

    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_CLOSED));
    CHECK_EQ(write(fd, "a", 1), 1, "to a closed port: the write succeeds");
    CHECK_MASK(fd, MASK_OUT_UDP | POLLERR, "then poll OUT ERR");
    CHECK_ERRNO(recv(fd, data, 1, 0), ECONNREFUSED, "recv ECONNREFUSED");
    CHECK_MASK(fd, MASK_OUT_UDP, "once");
    CHECK_EQ(write(fd, "a", 1), 1, "again");
    CHECK_MASK(fd, MASK_OUT_UDP | POLLERR, "poll OUT ERR");
    CHECK_ERRNO(write(fd, "a", 1), ECONNREFUSED, "a write takes the error too");
    CHECK_EQ(write(fd, "a", 1), 1, "and the next goes out");
    CHECK_MASK(fd, MASK_OUT_UDP | POLLERR, "poll OUT ERR");
    CHECK_EQ(t_so_error(fd), ECONNREFUSED, "SO_ERROR takes it too");
    CHECK_EQ(t_so_error(fd), 0, "once");
    /* A blocked receiver is woken by the ICMP message. */
    MUST(write(fd, "a", 1));
    CHECK_ERRNO(recv(fd, data, 1, 0), ECONNREFUSED, "blocked recv: ECONNREFUSED");
    close(fd);

    fd = MUST(t_udp(0));
    other = t_address(T_PEER, PORT_CLOSED);
    MUST(sendto(fd, "a", 1, 0, (struct sockaddr *)&other, sizeof other));
    t_sleep_ms(100);
    CHECK_EQ(t_so_error(fd), 0, "an unconnected socket is told nothing");
    close(fd);

    fd = MUST(t_udp(0));
    CHECK_ERRNO(shutdown(fd, SHUT_RDWR), ENOTCONN, "shutdown, unconnected: ENOTCONN");
    CHECK_MASK(fd, MASK_IN | MASK_OUT_UDP | POLLRDHUP | POLLHUP, "yet poll IN OUT RDHUP HUP");
    CHECK_EQ(recv(fd, data, 1, 0), 0, "and recv 0");
    close(fd);

    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "shutdown of the write half, connected: 0");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write EPIPE");
    CHECK_ERRNO(recv(fd, data, 1, MSG_DONTWAIT), EAGAIN, "recv still waits");
    CHECK_EQ(shutdown(fd, SHUT_RD), 0, "shutdown of the read half: 0");
    CHECK_EQ(recv(fd, data, 1, 0), 0, "recv 0");
    CHECK_MASK(fd, MASK_IN | MASK_OUT_UDP | POLLRDHUP | POLLHUP, "poll IN OUT RDHUP HUP");
    return t_end();
}
