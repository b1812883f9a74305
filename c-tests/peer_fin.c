/* The peer closes: end of stream for us, our write is answered by a reset, then EPIPE. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    char data[8];
    int control;

    t_begin();
    int fd = peer_pair(&control);
    MUST(peer_ask(control, "SEND 3"));
    MUST(peer_ask(control, "CLOSE"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP, "data and FIN: poll IN OUT RDHUP");
    CHECK_EQ(t_read_all(fd, data, 8), 3, "the data, then the end");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP, "poll stays IN OUT RDHUP");
    CHECK_EQ(read(fd, data, 8), 0, "read 0 again");
    CHECK_EQ(t_tcp_state(fd), TCP_CLOSE_WAIT, "TCP_INFO says CLOSE-WAIT");
    CHECK_EQ(write(fd, "a", 1), 1, "the first write is taken");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "the reset comes: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "the next write EPIPE");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP, "then poll without ERR");
    CHECK_EQ(read(fd, data, 1), 0, "read 0");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    close(fd);

    fd = MUST(peer_connect(PORT_FIN));
    CHECK(t_wait(fd, POLLRDHUP) & POLLRDHUP, "a service that closes at once: RDHUP");
    CHECK_EQ(read(fd, data, 1), 0, "read 0");
    CHECK_EQ(close(fd), 0, "close");

    /* A poll that did not ask for RDHUP sees only IN. */
    fd = MUST(peer_connect(PORT_FIN));
    CHECK_EQ(t_wait(fd, POLLIN), POLLIN, "POLLIN alone wakes up too");
    close(fd);
    return t_end();
}
