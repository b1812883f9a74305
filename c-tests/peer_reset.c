/* The peer resets: ECONNRESET once, then the end; queued data can still be read. */
#include "t.h"

#define MASK_DEAD (MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP)

/* test REF T-10 */
/* test REF C-06 */
int main(void)
{
    char data[8];
    int control;

    t_begin();
    int fd = peer_pair(&control);
    MUST(peer_ask(control, "SEND 2"));
    CHECK_EQ(recv(fd, data, 2, MSG_PEEK | MSG_WAITALL), 2, "two bytes are there");
    MUST(peer_ask(control, "RESET"));
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "reset: poll IN OUT RDHUP HUP ERR");
    CHECK_EQ(read(fd, data, 8), 2, "the two bytes can be read");
    CHECK_ERRNO(read(fd, data, 8), ECONNRESET, "then ECONNRESET");
    CHECK_MASK(fd, MASK_DEAD, "then poll without ERR");
    CHECK_EQ(read(fd, data, 8), 0, "then 0");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write EPIPE");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    CHECK_EQ(t_tcp_state(fd), TCP_CLOSE, "TCP_INFO says CLOSE");
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    CHECK_ERRNO(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN, "getpeername ENOTCONN");
    CHECK(t_is(t_sockname(fd), T_LOCAL), "getsockname still shows our address");
    close(fd);
    close(control);

    fd = peer_pair(&control);
    MUST(peer_ask(control, "RESET"));
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "write first: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(write(fd, "a", 1), ECONNRESET, "write first: ECONNRESET");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write first: then EPIPE");
    CHECK_EQ(read(fd, data, 1), 0, "write first: read 0");
    close(fd);
    close(control);

    fd = peer_pair(&control);
    MUST(peer_ask(control, "RESET"));
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "SO_ERROR first: poll IN OUT RDHUP HUP ERR");
    CHECK_EQ(t_so_error(fd), ECONNRESET, "SO_ERROR first: ECONNRESET");
    CHECK_EQ(read(fd, data, 1), 0, "SO_ERROR first: read 0");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "SO_ERROR first: write EPIPE");
    close(fd);
    close(control);

    /* After our FIN: the reset is told all the same. */
    fd = peer_pair(&control);
    MUST(shutdown(fd, SHUT_WR));
    MUST(peer_ask(control, "WAITEND"));
    MUST(peer_ask(control, "RESET"));
    CHECK_ERRNO(read(fd, data, 1), ECONNRESET, "reset after our FIN: read ECONNRESET");
    close(fd);
    close(control);

    fd = MUST(peer_connect(PORT_BYTE_RESET));
    CHECK_EQ(read(fd, data, 1), 1, "a service that resets on demand: its byte");
    CHECK_EQ(write(fd, "!", 1), 1, "the demand");
    CHECK_ERRNO(read(fd, data, 1), ECONNRESET, "a blocked read wakes up with ECONNRESET");
    close(fd);
    fd = t_tcp(0);
    int result = t_connect(fd, T_PEER, PORT_RESET);
    CHECK(result == 0 || errno == ECONNRESET, "a service that resets at once: connect succeeds or is reset");
    CHECK_EQ(close(fd), 0, "close of what the peer has reset");
    return t_end();
}
