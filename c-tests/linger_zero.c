/* SO_LINGER: zero resets, a positive time waits for the peer's acknowledgement. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    int control;

    t_begin();
    int fd = peer_pair(&control);
    struct linger linger = {-1, -1};
    socklen_t length = sizeof linger;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length), 0, "SO_LINGER reads");
    CHECK(linger.l_onoff == 0 && linger.l_linger == 0, "off at first");
    CHECK_EQ(t_set_linger(fd, 1, 0), 0, "on, zero seconds");
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "the peer gets a reset");
    close(control);

    fd = peer_pair(&control);
    MUST(t_set_linger(fd, 1, 0));
    CHECK_EQ(write(fd, "lost", 4), 4, "written");
    CHECK_EQ(close(fd), 0, "close");
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "a reset too");
    close(control);

    fd = peer_pair(&control);
    CHECK_EQ(t_set_linger(fd, 1, 5), 0, "on, five seconds");
    CHECK_EQ(write(fd, "kept", 4), 4, "written");
    long long start = t_now_ms();
    CHECK_EQ(close(fd), 0, "close");
    CHECK(t_now_ms() - start < 4000, "does not wait longer than the acknowledgement");
    CHECK_EQ(peer_ask(control, "RECVALL"), 4, "the peer gets the data and a FIN");
    close(control);

    fd = peer_pair(&control);
    MUST(t_set_linger(fd, 1, 0));
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "shutdown with zero linger");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "is a plain FIN");
    close(fd);
    return t_end();
}
