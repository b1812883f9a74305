/* epoll, level-triggered: reports as long as it holds. */
#include <sys/epoll.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char data[8];
    int control;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1122334455667788}, got[4];

    t_begin();
    int fd = peer_pair(&control), set = MUST(epoll_create1(EPOLL_CLOEXEC));
    CHECK_EQ(fcntl(set, F_GETFD), FD_CLOEXEC, "EPOLL_CLOEXEC");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), 0, "add for IN");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "nothing there: 0");
    MUST(peer_tell(control, "SEND 4"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "sleeps until data comes");
    CHECK_EQ(got[0].events, EPOLLIN, "IN");
    CHECK_EQ(got[0].data.u64, 0x1122334455667788, "the data of the registration");
    MUST(peer_number(control));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "again, since it was not read");
    CHECK_EQ(t_read_all(fd, data, 2), 2, "half of it read");
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "again, since half is left");
    CHECK_EQ(t_read_all(fd, data, 2), 2, "all read");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "no more");
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event), 0, "changed to IN OUT RDHUP");
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "writable");
    CHECK_EQ(got[0].events, EPOLLOUT, "OUT");
    MUST(peer_ask(control, "FIN"));
    CHECK(t_wait(fd, POLLRDHUP) & POLLRDHUP, "the peer's FIN");
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "one event");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT | EPOLLRDHUP, "IN OUT RDHUP");
    event.events = 0;
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "asked for nothing: 0");
    MUST(shutdown(fd, SHUT_WR));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "HUP comes unasked");
    CHECK_EQ(got[0].events, EPOLLHUP, "HUP alone");
    close(fd);
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "close takes it out of the set");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_DEL, fd, &event), EBADF, "and DEL says EBADF");
    return t_end();
}
