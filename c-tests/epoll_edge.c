/* epoll, edge-triggered: one report per arrival. */
#include <sys/epoll.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char data[8];
    int control;
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = 5}, got[4];

    t_begin();
    int fd = peer_pair(&control), set = MUST(epoll_create1(0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "adding what is ready reports once");
    CHECK_EQ(got[0].events, EPOLLOUT, "OUT");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "and not again");
    MUST(peer_tell(control, "SEND 3"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "data: one event");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT, "with the whole state: IN OUT");
    MUST(peer_number(control));
    CHECK_EQ(recv(fd, data, 3, MSG_PEEK | MSG_WAITALL), 3, "all three bytes are there");
    CHECK_EQ(epoll_wait(set, got, 4, 50), 0, "unread data does not report again");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "new data does");
    CHECK_EQ(t_read_all(fd, data, 4), 4, "everything is there");
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "MOD reports what is ready once more");
    CHECK_EQ(got[0].events, EPOLLOUT, "OUT");
    MUST(peer_ask(control, "FIN"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "the FIN is an event");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT | EPOLLRDHUP, "IN OUT RDHUP");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "once");
    return t_end();
}
