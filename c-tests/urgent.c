/* Urgent data: MSG_OOB both ways, the mark, POLLPRI in poll, select and epoll, SO_OOBINLINE, SIOCINQ. */
#include "t.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>

static int mark(int fd)
{
    int at = -1;
    if (ioctl(fd, SIOCATMARK, &at) != 0)
        return -1;
    return at;
}

static int waiting(int fd)
{
    int count = -1;
    ioctl(fd, FIONREAD, &count);
    return count;
}

/* Two bytes, an urgent one, two more: all of it has arrived when this returns. */
static int stream_with_mark(int control)
{
    int port, listener = t_listener(0, &port);
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    int fd = MUST(accept(listener, NULL, NULL));
    close(listener);
    MUST(peer_ask(control, "SEND 2"));
    MUST(peer_ask(control, "URGENT 33"));
    CHECK(t_wait(fd, POLLPRI) & POLLPRI, "the urgent byte polls PRI");
    MUST(peer_ask(control, "SEND 2"));
    return fd;
}

/* Until all five bytes are in the receive queue: only then do reads give the same every time. */
static void settle(int fd)
{
    int on = 1, off = 0;
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (waiting(fd) < 5 && t_now_ms() < deadline)
        t_sleep_ms(1);
    setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &off, sizeof off);
}

/* test REF T-08 */
static void apart(int control)
{
    char data[16];
    int fd = stream_with_mark(control);
    settle(fd);
    struct pollfd entry = {fd, POLLPRI | POLLIN, 0};
    CHECK_EQ(poll(&entry, 1, 0), 1, "poll");
    CHECK_EQ(entry.revents, POLLPRI | POLLIN, "says PRI and IN");
    fd_set reads, excepts;
    FD_ZERO(&reads);
    FD_ZERO(&excepts);
    FD_SET(fd, &reads);
    FD_SET(fd, &excepts);
    struct timeval none = {0, 0};
    CHECK_EQ(select(fd + 1, &reads, NULL, &excepts, &none), 2, "select counts both sets");
    CHECK(FD_ISSET(fd, &excepts), "the exceptional one too");
    int set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLPRI, .data.fd = fd};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
    CHECK_EQ(epoll_wait(set, &event, 1, 0), 1, "epoll_wait");
    CHECK_EQ(event.events, EPOLLPRI, "says EPOLLPRI");
    close(set);

    CHECK_EQ(waiting(fd), 2, "FIONREAD counts up to the mark");
    CHECK_EQ(mark(fd), 0, "not at the mark");
    CHECK_EQ(sockatmark(fd), 0, "sockatmark says so too");
    CHECK_EQ(recv(fd, data, sizeof data, MSG_PEEK), 2, "a peek stops at the mark");
    CHECK_EQ(recv(fd, data, 5, MSG_WAITALL), 2, "so does a read of all");
    CHECK_EQ(mark(fd), 1, "now at the mark");
    CHECK_EQ(sockatmark(fd), 1, "sockatmark agrees");
    CHECK_EQ(recv(fd, data, 1, MSG_OOB | MSG_PEEK), 1, "a peek at the urgent byte");
    struct iovec vector = {data, sizeof data};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    CHECK_EQ(recvmsg(fd, &message, MSG_OOB), 1, "recvmsg takes it");
    CHECK_EQ(message.msg_flags & MSG_OOB, MSG_OOB, "and marks it MSG_OOB");
    CHECK_EQ(data[0], 33, "it is what was sent");
    CHECK_ERRNO(recv(fd, data, 1, MSG_OOB), EINVAL, "it is there once: EINVAL");
    entry.revents = 0;
    CHECK_EQ(poll(&entry, 1, 0), 1, "poll once more");
    CHECK_EQ(entry.revents, POLLIN, "says IN alone");
    CHECK_EQ(recv(fd, data, sizeof data, 0), 2, "the rest comes without the urgent byte");
    CHECK_EQ(mark(fd), 0, "the mark is past");
    CHECK_ERRNO(recv(fd, data, 1, MSG_OOB), EINVAL, "nothing urgent: EINVAL at once");
    close(fd);
}

static void inline_data(int control)
{
    char data[16];
    int fd = stream_with_mark(control);
    settle(fd);
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1), 0, "SO_OOBINLINE");
    CHECK_EQ(waiting(fd), 5, "FIONREAD counts all");
    CHECK_ERRNO(recv(fd, data, 1, MSG_OOB), EINVAL, "MSG_OOB: EINVAL");
    CHECK_EQ(read(fd, data, sizeof data), 2, "a read stops at the mark");
    CHECK_EQ(mark(fd), 1, "at the mark");
    CHECK_EQ(read(fd, data, sizeof data), 3, "the next takes the urgent byte and the rest");
    CHECK_EQ(data[0], 33, "the urgent byte first");
    close(fd);
}

static void sending(int control)
{
    int port, listener = t_listener(0, &port);
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    int fd = MUST(accept(listener, NULL, NULL));
    CHECK_EQ(send(fd, "abc!", 4, MSG_OOB), 4, "the last byte of a MSG_OOB send is the urgent one");
    CHECK_EQ(peer_ask(control, "TAKEURGENT"), '!', "the peer finds it apart");
    CHECK_EQ(send(fd, "?", 1, MSG_OOB), 1, "another");
    CHECK_EQ(peer_ask(control, "TAKEURGENT"), '?', "is found too");
    CHECK_EQ(peer_ask(control, "DRAIN"), 4, "a byte whose mark was replaced unseen is in the stream");
    close(fd);
    close(listener);
}

/* test RFC 9293 §3.8.5 (MUST-33) */
int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    apart(control);
    inline_data(control);
    sending(control);
    return t_end();
}
