/* epoll, one-shot: silent after one report until it is armed again. */
#include <sys/epoll.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char data[8];
    int control;
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT}, got[4];

    t_begin();
    int fd = peer_pair(&control), set = MUST(epoll_create1(0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    MUST(peer_ask(control, "SEND 2"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "one report");
    CHECK_EQ(got[0].events, EPOLLIN, "IN");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "then none, though unread");
    MUST(peer_ask(control, "SEND 2"));
    CHECK_EQ(recv(fd, data, 4, MSG_PEEK | MSG_WAITALL), 4, "more data has come");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "and is not reported");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event), 0, "armed again");
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "reported at once");
    MUST(peer_ask(control, "RESET"));
    CHECK(t_wait(fd, POLLHUP) & POLLHUP, "a reset");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "disarmed: not even HUP");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), EEXIST, "still in the set: EEXIST");
    event.events = EPOLLIN | EPOLLONESHOT | EPOLLET;
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "armed with ET: one report");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLHUP | EPOLLERR, "IN HUP ERR");
    return t_end();
}
