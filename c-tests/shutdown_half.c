/* shutdown() of each half: what the peer sees, what still works here, EPIPE and SIGPIPE. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    char data[8];
    int control;

    t_begin();
    int fd = peer_pair(&control);
    CHECK_ERRNO(shutdown(fd, 3), EINVAL, "shutdown 3: EINVAL");
    CHECK_ERRNO(shutdown(fd, -1), EINVAL, "shutdown -1: EINVAL");
    CHECK_ERRNO(shutdown(999, SHUT_RD), EBADF, "no descriptor: EBADF");
    CHECK_EQ(write(fd, "data", 4), 4, "four bytes");
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "our write half ends");
    CHECK_MASK(fd, MASK_OUT, "poll OUT: a write would not wait");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write EPIPE");
    CHECK_ERRNO(send(fd, "a", 1, MSG_NOSIGNAL), EPIPE, "send EPIPE");
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "a second time: 0");
    CHECK_EQ(peer_ask(control, "RECVALL"), 4, "the peer reads four bytes and the end");
    MUST(peer_tell(control, "SEND 6"));
    CHECK_EQ(t_read_all(fd, data, 6), 6, "the other half still works");
    MUST(peer_number(control));
    MUST(peer_ask(control, "FIN"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP, "both halves ended: poll IN OUT RDHUP HUP");
    CHECK_EQ(read(fd, data, 1), 0, "read 0");
    close(fd);
    close(control);

    fd = peer_pair(&control);
    MUST(peer_ask(control, "SEND 4"));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "four bytes wait");
    CHECK_EQ(recv(fd, data, 4, MSG_PEEK | MSG_WAITALL), 4, "all of them");
    CHECK_EQ(shutdown(fd, SHUT_RD), 0, "our read half ends");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP, "poll IN OUT RDHUP");
    CHECK_EQ(read(fd, data, 8), 4, "what had come can be read");
    CHECK_EQ(read(fd, data, 8), 0, "then 0");
    CHECK_EQ(write(fd, "x", 1), 1, "write works");
    MUST(peer_ask(control, "SEND 3"));
    CHECK_EQ(recv(fd, data, 3, MSG_WAITALL) >= 0, 1, "what comes later is no error");
    close(fd);
    close(control);

    fd = peer_pair(&control);
    CHECK_EQ(shutdown(fd, SHUT_RDWR), 0, "both halves at once");
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP, "poll IN OUT RDHUP HUP");
    CHECK_EQ(read(fd, data, 1), 0, "read 0");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write EPIPE");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer gets a FIN");
    close(fd);
    close(control);
    return t_end();
}
