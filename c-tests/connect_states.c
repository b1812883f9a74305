/* connect() on a socket that is connecting, connected, listening, reset or closed on both sides. */
#include "t.h"

/* test REF C-03 */
/* test REF C-06 */
static void non_blocking(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "non-blocking: EINPROGRESS");
    CHECK_MASK(fd, MASK_OUT, "established: poll OUT and no more");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "the first call after the success gives 0");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "the second EISCONN");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "non-blocking again: EINPROGRESS");
    CHECK_MASK(fd, MASK_OUT, "established again");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR 0 tells of the success");
    CHECK_EQ(write(fd, "x", 1), 1, "a write may come before the second connect");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "and that still gives 0 once");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "then EISCONN");
    close(fd);
}

static void connecting(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINPROGRESS, "to a silent address: EINPROGRESS");
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EALREADY, "again: EALREADY");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EALREADY, "to another address: EALREADY too");
    CHECK_EQ(t_mask(fd), 0, "poll shows nothing while connecting");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0 while connecting");
    close(fd);
}

static void connected(void)
{
    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "blocking, connected: EISCONN at once");
    CHECK_ERRNO(t_connect(fd, T_NOROUTE, 80), EISCONN, "whatever the address");
    CHECK_ERRNO(listen(fd, 1), EINVAL, "listen on a connected socket: EINVAL");
    CHECK_ERRNO(t_bind(fd, T_LOCAL, 0), EINVAL, "bind on a connected socket: EINVAL");
    close(fd);
}

static void listening(void)
{
    int port;
    int fd = t_listener(0, &port);
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "a listening socket: EISCONN");
    close(fd);
}

static void after_reset(void)
{
    char byte;
    int control, fd = peer_pair(&control);
    MUST(peer_ask(control, "RESET"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "reset: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(read(fd, &byte, 1), ECONNRESET, "reset: read ECONNRESET");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "reset: connect is still EISCONN");
    close(fd);
    close(control);
}

static void both_closed(void)
{
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    int control, fd = peer_pair(&control);
    MUST(peer_ask(control, "FIN"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP, "peer's FIN: poll IN OUT RDHUP");
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "and ours");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP, "both closed: poll IN OUT RDHUP HUP");
    MUST(peer_ask(control, "WAITEND"));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "both closed: connect EISCONN");
    CHECK_EQ(t_tcp_state(fd) == TCP_CLOSE || t_tcp_state(fd) == TCP_LAST_ACK, 1, "both closed: LAST_ACK or CLOSE");
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (t_tcp_state(fd) != TCP_CLOSE && t_now_ms() < deadline)
        t_sleep_ms(1);
    CHECK_ERRNO(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN, "both closed: getpeername ENOTCONN");
    CHECK_ERRNO(shutdown(fd, SHUT_WR), ENOTCONN, "both closed: shutdown ENOTCONN");
    close(fd);
    close(control);
}

static void datagram(void)
{
    int fd = MUST(t_udp(0));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_UDP_ECHO), 0, "datagram: connect");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_UDP_SOURCE), 0, "datagram: again at will");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_UDP_SOURCE), 0, "datagram: also to the same address");
    close(fd);
}

int main(void)
{
    t_begin();
    non_blocking();
    connecting();
    connected();
    listening();
    after_reset();
    both_closed();
    datagram();
    return t_end();
}
