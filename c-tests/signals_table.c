/* Every blocking call against a signal: with SA_RESTART and without, with a timeout option and without. One row each;
 * the kernel's answers were written down first. */
#include <sys/epoll.h>
#include <sys/select.h>

#include "t.h"

static int quiet, listener, full, unconnected_fd, set, pipes[2];
static char block[65536];

/* What a call blocks in. Each returns what the call returned. */
static long do_read(void) { return read(quiet, block, 1); }
static long do_readv(void)
{
    struct iovec part = {block, 1};
    return readv(quiet, &part, 1);
}
static long do_recv(void) { return recv(quiet, block, 1, 0); }
static long do_recv_waitall(void) { return recv(quiet, block, 10, MSG_WAITALL); }
static long do_recv_peek(void) { return recv(quiet, block, 1, MSG_PEEK); }
static long do_recvfrom(void) { return recvfrom(quiet, block, 1, 0, NULL, NULL); }
static long do_recvmsg(void)
{
    struct iovec part = {block, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return recvmsg(quiet, &message, 0);
}
static long do_recvmmsg(void)
{
    struct iovec part = {block, 1};
    struct mmsghdr message = {.msg_hdr = {.msg_iov = &part, .msg_iovlen = 1}};
    return recvmmsg(unconnected_fd, &message, 1, 0, NULL);
}
static long do_accept(void) { return accept(listener, NULL, NULL); }
static long do_write(void) { return write(full, block, sizeof block); }
static long do_send(void) { return send(full, block, sizeof block, 0); }
static long do_sendmsg(void)
{
    struct iovec part = {block, sizeof block};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    return sendmsg(full, &message, 0);
}
static long do_udp_recv(void) { return recv(unconnected_fd, block, 1, 0); }
static long do_poll(void)
{
    struct pollfd entry = {quiet, POLLIN, 0};
    return poll(&entry, 1, 3000);
}
static long do_ppoll(void)
{
    struct pollfd entry = {quiet, POLLIN, 0};
    struct timespec span = {3, 0};
    return ppoll(&entry, 1, &span, NULL);
}
static long do_poll_mixed(void)
{
    struct pollfd entries[2] = {{quiet, POLLIN, 0}, {pipes[0], POLLIN, 0}};
    return poll(entries, 2, -1);
}
static long do_select(void)
{
    fd_set read_set;
    FD_ZERO(&read_set);
    FD_SET(quiet, &read_set);
    struct timeval span = {3, 0};
    return select(quiet + 1, &read_set, NULL, NULL, &span);
}
static long do_pselect(void)
{
    fd_set read_set;
    FD_ZERO(&read_set);
    FD_SET(quiet, &read_set);
    return pselect(quiet + 1, &read_set, NULL, NULL, NULL, NULL);
}
static long do_epoll_wait(void)
{
    struct epoll_event event;
    return epoll_wait(set, &event, 1, 3000);
}
static long do_epoll_pwait2(void)
{
    struct epoll_event event;
    return epoll_pwait2(set, &event, 1, NULL, NULL);
}
static long do_connect(void)
{
    int fd = t_tcp(0);
    int result = t_connect(fd, T_BLACKHOLE, 9);
    int error = errno;
    close(fd);
    errno = error;
    return result;
}

static const struct row {
    const char *name;
    long (*call)(void);
    int *fd;       /* the socket whose timeout options count */
    int option;    /* SO_RCVTIMEO or SO_SNDTIMEO */
    bool restarts; /* under SA_RESTART and without a timeout */
} rows[] = {
    {"read", do_read, &quiet, SO_RCVTIMEO, true},
    {"readv", do_readv, &quiet, SO_RCVTIMEO, true},
    {"recv", do_recv, &quiet, SO_RCVTIMEO, true},
    {"recv MSG_WAITALL", do_recv_waitall, &quiet, SO_RCVTIMEO, true},
    {"recv MSG_PEEK", do_recv_peek, &quiet, SO_RCVTIMEO, true},
    {"recvfrom", do_recvfrom, &quiet, SO_RCVTIMEO, true},
    {"recvmsg", do_recvmsg, &quiet, SO_RCVTIMEO, true},
    {"recvmmsg", do_recvmmsg, &unconnected_fd, SO_RCVTIMEO, true},
    {"recv of a datagram", do_udp_recv, &unconnected_fd, SO_RCVTIMEO, true},
    {"accept", do_accept, &listener, SO_RCVTIMEO, true},
    {"write", do_write, &full, SO_SNDTIMEO, true},
    {"send", do_send, &full, SO_SNDTIMEO, true},
    {"sendmsg", do_sendmsg, &full, SO_SNDTIMEO, true},
    {"poll", do_poll, NULL, 0, false},
    {"ppoll", do_ppoll, NULL, 0, false},
    {"poll without end beside a pipe", do_poll_mixed, NULL, 0, false},
    {"select", do_select, NULL, 0, false},
    {"pselect without end", do_pselect, NULL, 0, false},
    {"epoll_wait", do_epoll_wait, NULL, 0, false},
    {"epoll_pwait2 without end", do_epoll_pwait2, NULL, 0, false},
    {"connect", do_connect, NULL, 0, true},
};

/* The second signal ends a call that was restarted. One that is to end at the first has all the time for it. */
static volatile int fired;
static timer_t timer;
static long pause_ms;

static void fire_in(long milliseconds)
{
    struct itimerspec setting = {.it_value = {milliseconds / 1000, milliseconds % 1000 * 1000000}};
    timer_settime(timer, 0, &setting, NULL);
}

static void on_signal(int number)
{
    if (++fired == 1) {
        struct sigaction action = {.sa_handler = on_signal};
        sigaction(number, &action, NULL);
        fire_in(pause_ms);
    }
}

static void expect(const struct row *row, bool restart, bool timeout, bool restarts)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = restart ? SA_RESTART : 0};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    fired = 0;
    pause_ms = restarts ? 25 : 5000;
    if (timeout)
        t_set_timeout(*row->fd, row->option, 8000);
    sigaction(SIGUSR1, &action, NULL);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    fire_in(25);
    errno = 0;
    long result = row->call();
    int error = errno, times = fired;
    timer_delete(timer);
    if (timeout)
        t_set_timeout(*row->fd, row->option, 0);
    CHECK(result == -1 && error == EINTR && (times > 1) == restarts, "%s, %s%s: %s", row->name,
          restart ? "SA_RESTART" : "no SA_RESTART", timeout ? ", with a timeout option" : "",
          restarts ? "restarted" : "EINTR at once");
    if (times < 1 || error != EINTR)
        t_print("# result %ld, errno %s, %d signals\n", result, strerrorname_np(error), times);
}

/* test REF C-04 */
int main(void)
{
    int port;
    t_begin();
    quiet = MUST(peer_connect(PORT_SILENT));
    full = MUST(peer_connect(PORT_SILENT));
    listener = t_listener(0, &port);
    unconnected_fd = MUST(t_udp(0));
    MUST(t_bind(unconnected_fd, T_LOCAL, 0));
    MUST(pipe(pipes));
    set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, quiet, &event));
    /* Fill the peer's buffer and ours: until nothing more is taken for a while. */
    MUST(t_set_option(full, SOL_SOCKET, SO_SNDBUF, 32768));
    struct pollfd room = {full, POLLOUT, 0};
    while (poll(&room, 1, 300) == 1)
        while (send(full, block, sizeof block, MSG_DONTWAIT) > 0) {
        }
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const struct row *row = &rows[i];
        expect(row, false, false, false);
        expect(row, true, false, row->restarts);
        if (row->fd)
            expect(row, true, true, false);
    }
    return t_end();
}
