/* epoll with sockets and pipes in one set; errors of epoll_ctl; a set that is polled itself. */
#include <sys/epoll.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char byte;
    int control, port, pipes[2];
    struct epoll_event event = {.events = EPOLLIN}, got[8];

    t_begin();
    int fd = peer_pair(&control), listener = t_listener(0, &port), set = MUST(epoll_create(1));
    MUST(pipe(pipes));
    event.data.fd = fd;
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), 0, "add the connection");
    event.data.fd = listener;
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event), 0, "add the listener");
    event.data.fd = pipes[0];
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_ADD, pipes[0], &event), 0, "add the pipe");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event), EEXIST, "twice: EEXIST");
    int stranger = MUST(t_tcp(0));
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_MOD, stranger, &event), ENOENT, "MOD of what is not in it: ENOENT");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_DEL, stranger, &event), ENOENT, "DEL of what is not in it: ENOENT");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, 999, &event), EBADF, "no descriptor: EBADF");
    CHECK_ERRNO(epoll_ctl(999, EPOLL_CTL_ADD, fd, &event), EBADF, "no set: EBADF");
    CHECK_ERRNO(epoll_ctl(stranger, EPOLL_CTL_ADD, fd, &event), EINVAL, "a socket is no set: EINVAL");
    CHECK_ERRNO(epoll_ctl(set, 77, fd, &event), EINVAL, "unknown operation: EINVAL");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, set, &event), EINVAL, "a set in itself: EINVAL");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_MOD, fd, t_nowhere), EFAULT, "event nowhere: EFAULT");
    CHECK_ERRNO(epoll_wait(set, got, 0, 0), EINVAL, "room for no event: EINVAL");
    CHECK_ERRNO(epoll_wait(stranger, got, 8, 0), EINVAL, "wait on a socket: EINVAL");

    CHECK_EQ(epoll_wait(set, got, 8, 0), 0, "nothing ready: 0");
    MUST(write(pipes[1], "p", 1));
    CHECK_EQ(epoll_wait(set, got, 8, T_PATIENCE_MS), 1, "the pipe");
    CHECK_EQ(got[0].data.fd, pipes[0], "as its data says");
    MUST(peer_ask(control, "SEND 1"));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "a byte from the peer");
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    CHECK(t_wait(listener, POLLIN) & POLLIN, "and a connection");
    int count = epoll_wait(set, got, 8, T_PATIENCE_MS), seen = 0;
    CHECK_EQ(count, 3, "all three at once");
    for (int i = 0; i < 3; i++)
        seen |= (got[i].data.fd == fd) | (got[i].data.fd == listener) << 1 | (got[i].data.fd == pipes[0]) << 2;
    CHECK_EQ(seen, 7, "each once");
    seen = 0;
    for (int i = 0; i < 6; i++)
        if (epoll_wait(set, got, 1, T_PATIENCE_MS) == 1)
            seen |= (got[0].data.fd == fd) | (got[0].data.fd == listener) << 1 | (got[0].data.fd == pipes[0]) << 2;
    CHECK_EQ(seen, 7, "with room for one event they come in turn");

    int outer = MUST(epoll_create1(0));
    event.data.fd = set;
    CHECK_EQ(epoll_ctl(outer, EPOLL_CTL_ADD, set, &event), 0, "the set in another set");
    CHECK_EQ(epoll_wait(outer, got, 8, T_PATIENCE_MS), 1, "is ready");
    CHECK_EQ(t_wait(set, POLLIN), POLLIN, "the set polls IN");
    MUST(read(pipes[0], &byte, 1));
    MUST(read(fd, &byte, 1));
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_DEL, listener, NULL), 0, "DEL needs no event");
    CHECK_EQ(epoll_wait(set, got, 8, 0), 0, "the rest is not ready");
    CHECK_EQ(epoll_wait(outer, got, 8, 0), 0, "nor the outer set");
    MUST(peer_ask(control, "USE 0"));
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(epoll_wait(outer, got, 8, T_PATIENCE_MS), 1, "until a byte comes through both");

    t_catch(SIGUSR1, SA_RESTART);
    MUST(peer_number(control));
    MUST(read(fd, &byte, 1));
    timer_t timer = t_signal_every(SIGUSR1, 40);
    CHECK_ERRNO(epoll_wait(set, got, 8, T_PATIENCE_MS), EINTR, "a signal: EINTR even under SA_RESTART");
    timer_delete(timer);

    /* A duplicate keeps the registration alive after the registered number was closed. */
    int copy = MUST(dup(fd));
    close(fd);
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(epoll_wait(set, got, 8, T_PATIENCE_MS), 1, "closed, but a duplicate lives: still reported");
    CHECK_EQ(got[0].data.fd, fd, "with the old data");
    close(copy);
    CHECK_EQ(epoll_wait(set, got, 8, 0), 0, "the last close ends it");
    return t_end();
}
