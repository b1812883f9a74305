/* Every other call on a socket in SYN-SENT. */
#include "t.h"

static int connecting(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINPROGRESS, "SYN sent into the void");
    return fd;
}

/* test REF C-21 */
int main(void)
{
    char byte;
    struct sockaddr_in name;
    socklen_t length = sizeof name;

    t_begin();
    int fd = connecting();
    CHECK_EQ(t_mask(fd), 0, "poll shows nothing");
    CHECK_ERRNO(write(fd, "a", 1), EAGAIN, "write EAGAIN");
    CHECK_ERRNO(read(fd, &byte, 1), EAGAIN, "read EAGAIN");
    CHECK_ERRNO(listen(fd, 5), EINVAL, "listen EINVAL");
    CHECK_ERRNO(accept(fd, NULL, NULL), EINVAL, "accept EINVAL");
    CHECK_ERRNO(t_bind(fd, T_LOCAL, 0), EINVAL, "bind EINVAL");
    CHECK_ERRNO(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN, "getpeername ENOTCONN");
    CHECK(t_is(t_sockname(fd), T_LOCAL), "getsockname shows the source address");
    CHECK(t_local_port(fd) != 0, "and the port");
    CHECK_EQ(t_tcp_state(fd), TCP_SYN_SENT, "TCP_INFO says SYN-SENT");
    CHECK_EQ(shutdown(fd, SHUT_RD), 0, "shutdown of the read half 0");
    CHECK_MASK(fd, MASK_OUT | POLLHUP | POLLERR, "then poll OUT HUP ERR");
    CHECK_ERRNO(shutdown(fd, SHUT_WR), ENOTCONN, "a second shutdown ENOTCONN");
    CHECK_EQ(t_so_error(fd), ECONNRESET, "SO_ERROR is ECONNRESET");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "then poll OUT HUP");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "the socket connects again");
    CHECK_MASK(fd, MASK_OUT, "with success");
    close(fd);

    fd = connecting();
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "shutdown of the write half 0");
    CHECK_MASK(fd, MASK_OUT | POLLHUP | POLLERR, "then poll OUT HUP ERR");
    CHECK_EQ(t_so_error(fd), ECONNRESET, "SO_ERROR is ECONNRESET");
    close(fd);

    fd = connecting();
    CHECK_EQ(shutdown(fd, SHUT_RDWR), 0, "shutdown of both 0");
    CHECK_MASK(fd, MASK_OUT | POLLHUP | POLLERR, "then poll OUT HUP ERR");
    CHECK_ERRNO(read(fd, &byte, 1), ECONNRESET, "read takes the error");
    CHECK_EQ(t_so_error(fd), 0, "and SO_ERROR is 0");
    close(fd);

    fd = connecting();
    fcntl(fd, F_SETFL, 0);
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 100));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 100));
    CHECK_ERRNO(read(fd, &byte, 1), EAGAIN, "blocking read waits for SO_RCVTIMEO: EAGAIN");
    CHECK_ERRNO(write(fd, "a", 1), EAGAIN, "blocking write waits for SO_SNDTIMEO: EAGAIN");
    CHECK_EQ(close(fd), 0, "close of a connecting socket 0");
    return t_end();
}
