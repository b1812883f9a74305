/* A listener on every address is reached through 127.0.0.1 as well as by the peer: accept, poll, select, epoll, fork. */
#include <sys/epoll.h>
#include <sys/select.h>

#include "t.h"

/* A listener on every address, at a port of its own. */
static int listener_on_all(int *port)
{
    int fd = MUST(t_tcp(0));
    MUST(t_bind(fd, "0.0.0.0", 0));
    MUST(listen(fd, 16));
    *port = t_local_port(fd);
    return fd;
}

/* A connection from this process through 127.0.0.1. */
static int dial(int port)
{
    int fd = MUST(t_tcp(0));
    CHECK_EQ(t_connect(fd, "127.0.0.1", port), 0, "connect to 127.0.0.1");
    return fd;
}

static void carries(int accepted, int dialled)
{
    char byte = 0;
    CHECK_EQ(write(dialled, "x", 1), 1, "a byte goes in");
    CHECK(read(accepted, &byte, 1) == 1 && byte == 'x', "and comes out");
    close(accepted);
    CHECK_EQ(read(dialled, &byte, 1), 0, "the close too");
    close(dialled);
}

/* test REF L-03 */
static void accepting(int control)
{
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    int port, listener = listener_on_all(&port), dialled = dial(port);
    CHECK_MASK(listener, MASK_IN, "the listener polls IN");
    int fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0 && length == sizeof name && t_is(name, "127.0.0.1"), "accept gives a connection from 127.0.0.1");
    CHECK_EQ(ntohs(name.sin_port), t_local_port(dialled), "with the port that it came from");
    CHECK(t_is(t_sockname(fd), "127.0.0.1"), "to 127.0.0.1");
    CHECK_EQ(t_local_port(fd), port, "and the listener's port");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR, "it blocks");
    CHECK_EQ(fcntl(fd, F_GETFD), 0, "and stays open over exec");
    CHECK_MASK(listener, 0, "then the listener is idle");
    carries(fd, dialled);

    dialled = dial(port);
    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fd >= 0 && (fcntl(fd, F_GETFL) & O_NONBLOCK) && fcntl(fd, F_GETFD) == FD_CLOEXEC, "accept4's flags");
    close(dialled);
    close(fd);

    /* Both queues have one: both are given, each once. */
    dialled = dial(port);
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    int from_peer = 0, from_here = 0;
    for (int i = 0; i < 2; i++) {
        length = sizeof name;
        fd = MUST(accept(listener, (struct sockaddr *)&name, &length));
        from_peer += t_is(name, T_PEER);
        from_here += t_is(name, "127.0.0.1");
        close(fd);
    }
    CHECK(from_peer == 1 && from_here == 1, "the peer's connection and ours");
    close(dialled);
    MUST(fcntl(listener, F_SETFL, O_NONBLOCK));
    CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN, "no third: EAGAIN");
    close(listener);
}

/* A child dials while this process sleeps. */
static void sleeping(void)
{
    int port, listener = listener_on_all(&port);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77}, got[4];
    for (int way = 0; way < 4; way++) {
        pid_t child = fork();
        if (child == 0) {
            char byte;
            t_sleep_ms(30);
            int fd = t_tcp(0);
            t_connect(fd, "127.0.0.1", port);
            _exit(read(fd, &byte, 1) == 1 ? 0 : 1);
        }
        if (way == 1)
            CHECK_EQ(t_wait(listener, POLLIN), POLLIN, "poll wakes up");
        if (way == 2) {
            fd_set set;
            FD_ZERO(&set);
            FD_SET(listener, &set);
            CHECK_EQ(select(listener + 1, &set, NULL, NULL, NULL), 1, "select wakes up");
        }
        if (way == 3) {
            int set = MUST(epoll_create1(0));
            MUST(epoll_ctl(set, EPOLL_CTL_ADD, listener, &event));
            CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "epoll wakes up with one event");
            CHECK(got[0].events == EPOLLIN && got[0].data.u64 == 77, "the listener's");
            close(set);
        }
        int status, fd = accept(listener, NULL, NULL);
        CHECK(fd >= 0, "accept");
        CHECK_EQ(write(fd, "y", 1), 1, "write");
        CHECK(waitpid(child, &status, 0) == child && status == 0, "the child has its byte");
        close(fd);
    }
    close(listener);
}

/* An epoll set that knows the listener before it listens. */
static void watched_first(void)
{
    int fd = MUST(t_tcp(0)), set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd}, got[4];
    MUST(t_bind(fd, "0.0.0.0", 0));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 1, "a closed socket is hung up");
    MUST(listen(fd, 4));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "a listener is not");
    int dialled = dial(t_local_port(fd));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "a connection comes");
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "not after EPOLL_CTL_DEL");
    close(dialled);
    close(set);
    close(fd);
}

/* A forked child serves; the listener lives until its last holder closes it. */
static void shared(void)
{
    int status, port, listener = listener_on_all(&port), copy = MUST(dup(listener));
    close(listener);
    close(dial(port));
    int fd = MUST(accept(copy, NULL, NULL));
    close(fd);
    pid_t child = fork();
    if (child == 0) {
        int taken = accept(copy, NULL, NULL);
        _exit(write(taken, "z", 1) == 1 ? 0 : 1);
    }
    close(copy);
    char byte = 0;
    int dialled = dial(port);
    CHECK(read(dialled, &byte, 1) == 1 && byte == 'z', "the child serves after the parent has closed");
    close(dialled);
    CHECK(waitpid(child, &status, 0) == child && status == 0, "and ends");
    fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, "127.0.0.1", port), ECONNREFUSED, "then nobody listens: ECONNREFUSED");
    close(fd);
}

static void ending(void)
{
    int on = 1, port, listener = listener_on_all(&port), fd = MUST(t_tcp(0));
    /* Set on a socket that listens already; the connections left in TIME_WAIT must have it too. */
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    MUST(shutdown(listener, SHUT_RD));
    CHECK_ERRNO(t_connect(fd, "127.0.0.1", port), ECONNREFUSED, "after shutdown: ECONNREFUSED");
    CHECK_EQ(listen(listener, 8), 0, "listen again");
    close(fd);
    /* A port that was not asked for by number may be another now. */
    port = t_local_port(listener);
    fd = dial(port);
    int taken = MUST(accept(listener, NULL, NULL));
    close(listener);
    carries(taken, fd);
    listener = MUST(t_tcp(0));
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on));
    CHECK_EQ(t_bind(listener, "0.0.0.0", port), 0, "the port is had again at once with SO_REUSEADDR");
    CHECK_EQ(listen(listener, 8), 0, "listen");
    fd = dial(port);
    taken = MUST(accept(listener, NULL, NULL));
    CHECK_EQ(t_option(taken, SOL_SOCKET, SO_REUSEADDR), 1, "options are inherited");
    carries(taken, fd);
    close(listener);
}

/* test REF S-06 */
static void six(void)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6}, name = {0};
    socklen_t length = sizeof name;
    int listener = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(bind(listener, (struct sockaddr *)&any, sizeof any));
    MUST(listen(listener, 4));
    MUST(getsockname(listener, (struct sockaddr *)&name, &length));
    int dialled = dial(ntohs(name.sin6_port));
    length = sizeof name;
    int fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0 && length == sizeof name && name.sin6_family == AF_INET6, ":: listens on 127.0.0.1");
    CHECK(IN6_IS_ADDR_V4MAPPED(&name.sin6_addr) && name.sin6_addr.s6_addr[12] == 127, "whose name comes mapped");
    carries(fd, dialled);
    close(listener);
}

int main(void)
{
    t_begin();
    accepting(MUST(peer_connect(PORT_COMMAND)));
    sleeping();
    watched_first();
    shared();
    ending();
    six();
    return t_end();
}
