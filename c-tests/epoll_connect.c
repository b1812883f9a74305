/* A non-blocking connect watched by epoll: success, refusal, and registration before connect. */
#include <sys/epoll.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET}, got[4];

    t_begin();
    int set = MUST(epoll_create1(0)), fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "connect");
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "connected: one event");
    CHECK_EQ(got[0].events, EPOLLOUT, "OUT");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "no more events");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "a fresh socket reports at once");
    CHECK_EQ(got[0].events, EPOLLOUT | EPOLLHUP, "OUT HUP");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "connect after registration");
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "connected: one event");
    CHECK_EQ(got[0].events, EPOLLOUT, "OUT without HUP");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP;
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "connect to a closed port");
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "refused: one event");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR, "IN OUT RDHUP HUP ERR");
    CHECK_EQ(t_so_error(fd), ECONNREFUSED, "SO_ERROR is ECONNREFUSED");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINPROGRESS, "connect into the void");
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, 100), 0, "no event");
    close(fd);
    return t_end();
}
