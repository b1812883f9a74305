/* poll and select: their arguments, times and odd descriptors. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/select.h>

#include "t.h"

static long long now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The call took at least that long, and not much longer; a busy machine gets three trials. */
#define CHECK_SPAN(call, expected, microseconds, ...)                                                                  \
    do {                                                                                                               \
        long t_result = 0;                                                                                             \
        bool t_fits = false;                                                                                           \
        for (int t_try = 0; t_try < 5 && !t_fits; t_try++) {                                                           \
            long long t_start = now_us();                                                                              \
            t_result = (call);                                                                                         \
            long long t_took = now_us() - t_start;                                                                     \
            if (t_took < (microseconds))                                                                               \
                break;                                                                                                 \
            t_fits = t_took < (microseconds) + 8000;                                                                   \
        }                                                                                                              \
        CHECK(t_fits && t_result == (expected), __VA_ARGS__);                                                          \
    } while (0)

static int select_read(int fd, struct timeval *span)
{
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    return select(fd + 1, &set, NULL, NULL, span);
}

static void times(int fd)
{
    struct pollfd entry = {fd, POLLIN, 0};
    struct timespec span = {0, 1500000}, none = {0, 0}, bad = {0, 1000000000}, negative = {-1, 0};
    struct timeval left = {0, 20000}, bad_left = {-1, 0}, carried = {0, 1000000 + 1000};
    fd_set set;
    int epoll = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));

    CHECK_SPAN(poll(&entry, 1, 30), 0, 30000, "poll waits its milliseconds");
    CHECK_SPAN(ppoll(&entry, 1, &span, NULL), 0, 1500, "ppoll its nanoseconds");
    CHECK_EQ(span.tv_nsec, 1500000, "and leaves them as they are");
    CHECK_EQ(ppoll(&entry, 1, &none, NULL), 0, "no time: a look");
    CHECK_ERRNO(ppoll(&entry, 1, &bad, NULL), EINVAL, "too many nanoseconds: EINVAL");
    CHECK_ERRNO(ppoll(&entry, 1, &negative, NULL), EINVAL, "negative seconds: EINVAL");
    CHECK_SPAN(epoll_wait(epoll, &event, 1, 20), 0, 20000, "epoll_wait its milliseconds");
    CHECK_SPAN(epoll_pwait2(epoll, &event, 1, &span, NULL), 0, 1500, "epoll_pwait2 its nanoseconds");
    CHECK_EQ(select_read(fd, &left), 0, "select waits");
    CHECK(left.tv_sec == 0 && left.tv_usec == 0, "and has no time left");
    CHECK_ERRNO(select_read(fd, &bad_left), EINVAL, "negative time: EINVAL");
    MUST(t_set_option(fd, SOL_SOCKET, SO_RCVBUF, 65536));
    CHECK_SPAN((carried.tv_sec = 0, carried.tv_usec = 1001000, select_read(fd, &carried)), 0, 1001000,
               "microseconds may run over");
    t_catch(SIGUSR1, SA_RESTART);
    timer_t timer = t_signal_every(SIGUSR1, 30);
    left.tv_sec = 5;
    left.tv_usec = 0;
    CHECK_ERRNO(select_read(fd, &left), EINTR, "a signal: EINTR");
    timer_delete(timer);
    CHECK(left.tv_sec == 4 && left.tv_usec > 500000, "and the time that is left");
    FD_ZERO(&set);
    FD_SET(fd, &set);
    span.tv_sec = 0;
    span.tv_nsec = 1000000;
    CHECK_SPAN((FD_SET(fd, &set), pselect(fd + 1, &set, NULL, NULL, &span, NULL)), 0, 1000, "pselect");
    CHECK_EQ(FD_ISSET(fd, &set), 0, "clears what is not ready");
    CHECK_EQ(span.tv_nsec, 1000000, "and leaves the time as it is");
    close(epoll);
}

static void descriptors(int fd)
{
    struct pollfd entries[5] = {{fd, POLLOUT, 0}, {-1, POLLIN, 77}, {-2147483647, POLLIN, 77}, {900, POLLIN, 0},
                                {fd, POLLIN, 0}};
    fd_set set;
    struct timeval none = {0, 0};
    struct rlimit limit;

    CHECK_EQ(poll(entries, 5, 0), 2, "a socket, ignored numbers, a closed one, the socket again");
    CHECK_EQ(entries[0].revents, POLLOUT, "the socket as asked");
    CHECK_EQ(entries[1].revents, 0, "a negative number has no events");
    CHECK_EQ(entries[2].revents, 0, "however negative");
    CHECK_EQ(entries[3].revents, POLLNVAL, "a closed one POLLNVAL");
    CHECK_EQ(entries[4].revents, 0, "the second entry of the socket on its own");
    entries[0].events = 0;
    CHECK_EQ(poll(entries, 1, 0), 0, "no event asked for: none");
    CHECK_EQ(poll(NULL, 0, 1), 0, "poll of nothing sleeps");
    CHECK_ERRNO(poll(t_nowhere, 1, 0), EFAULT, "entries nowhere: EFAULT");
    MUST(getrlimit(RLIMIT_NOFILE, &limit));
    struct rlimit small = {16, limit.rlim_max};
    struct pollfd many[17];
    for (int i = 0; i < 17; i++)
        many[i] = (struct pollfd){fd, POLLOUT, 0};
    MUST(setrlimit(RLIMIT_NOFILE, &small));
    CHECK_ERRNO(poll(many, 17, 0), EINVAL, "more entries than RLIMIT_NOFILE: EINVAL");
    CHECK_EQ(poll(many, 16, 0), 16, "as many are fine");
    MUST(setrlimit(RLIMIT_NOFILE, &limit));

    FD_ZERO(&set);
    FD_SET(fd, &set);
    FD_SET(40, &set);
    CHECK_ERRNO(select(41, &set, NULL, NULL, &none), EBADF, "select with a closed number: EBADF");
    CHECK_EQ(FD_ISSET(fd, &set) && FD_ISSET(40, &set), 1, "and the set untouched");
    FD_ZERO(&set);
    FD_SET(fd, &set);
    FD_SET(fd + 1, &set);
    CHECK_EQ(select(fd + 1, NULL, &set, NULL, &none), 1, "numbers from nfds on take no part");
    CHECK_ERRNO(select(-1, &set, NULL, NULL, &none), EINVAL, "negative nfds: EINVAL");
    CHECK_ERRNO(select(fd + 1, t_nowhere, NULL, NULL, &none), EFAULT, "a set nowhere: EFAULT");
    FD_ZERO(&set);
    FD_SET(fd, &set);
    CHECK_EQ(select(1 << 20, NULL, &set, NULL, &none), 1, "nfds beyond the table is cut down");

    /* Only the kernel's descriptors, and numbers far above: as if there were no library. */
    int pipes[2];
    MUST(pipe(pipes));
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    CHECK_EQ(select(FD_SETSIZE, &set, NULL, NULL, &none), 0, "kernel descriptors alone");
    for (int number = 300; number < 1024; number++)
        FD_SET(number, &set);
    CHECK_EQ(select(FD_SETSIZE, &set, NULL, NULL, &none), 0, "numbers beyond the table take no part");
    FD_ZERO(&set);
    FD_SET(pipes[0], &set);
    FD_SET(fd, &set);
    for (int number = 300; number < 1024; number++)
        FD_SET(number, &set);
    CHECK_EQ(select(FD_SETSIZE, NULL, &set, NULL, &none), 1, "beside a socket the same");
    struct pollfd high[3] = {{1000, POLLIN, 0}, {1020, POLLIN, 0}, {pipes[0], POLLIN, 0}};
    CHECK_EQ(poll(high, 3, 0), 2, "poll of high numbers");
    CHECK(high[0].revents == POLLNVAL && high[1].revents == POLLNVAL, "none of them open");
    close(pipes[0]);
    close(pipes[1]);
}

/* Kernel descriptors that are always ready do not hide sockets, nor sockets them. */
static void mixture(void)
{
    int control, fd = peer_pair(&control), event = MUST(eventfd(1, 0));
    struct pollfd entries[2] = {{event, POLLIN, 0}, {fd, POLLIN, 0}};
    char byte;
    CHECK_EQ(poll(entries, 2, -1), 1, "the eventfd is ready");
    MUST(peer_tell(control, "SEND 1"));
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (poll(entries, 2, -1) < 2 && t_now_ms() < deadline) {
    }
    CHECK(entries[0].revents == POLLIN && entries[1].revents == POLLIN, "soon the socket too");
    MUST(peer_number(control));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(fd, &set);
    FD_SET(event, &set);
    CHECK_EQ(select((fd > event ? fd : event) + 1, &set, NULL, NULL, NULL), 2, "select has both");
    MUST(read(fd, &byte, 1));
    close(fd);
    close(event);
    close(control);
}

static void low_water(void)
{
    int control, fd = peer_pair(&control), value = 0;
    socklen_t length = sizeof value;
    char bytes[16];
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_RCVLOWAT), 1, "SO_RCVLOWAT is 1");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_RCVLOWAT, 5), 0, "set to 5");
    MUST(peer_ask(control, "SEND 3"));
    t_sleep_ms(50);
    CHECK_EQ(t_mask(fd), MASK_OUT, "three bytes: not readable");
    MUST(peer_ask(control, "SEND 2"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT, "five: readable");
    CHECK_EQ(recv(fd, bytes, 16, 0), 5, "and read");
    MUST(peer_ask(control, "SEND 2"));
    t_sleep_ms(50);
    CHECK_EQ(recv(fd, bytes, 16, MSG_DONTWAIT), 2, "a call that does not wait takes less");
    MUST(peer_ask(control, "SEND 2"));
    MUST(peer_ask(control, "FIN"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP, "the end makes it readable");
    CHECK_EQ(recv(fd, bytes, 16, 0), 2, "with what there is");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_RCVLOWAT, 0), 0, "0 is taken");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_RCVLOWAT), 1, "as 1");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_RCVLOWAT, -1), 0, "a negative one too");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_RCVLOWAT) > 1 << 16, true, "as a large one");
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_SNDLOWAT, 5), ENOPROTOOPT, "SO_SNDLOWAT cannot be set");
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_SNDLOWAT, &value, &length), 0, "but read");
    CHECK_EQ(value, 1, "as 1");
    close(fd);
    close(control);
}

/* test REF C-06 */
int main(void)
{
    t_begin();
    int fd = MUST(peer_connect(PORT_SILENT));
    descriptors(fd);
    times(fd);
    mixture();
    low_water();
    return t_end();
}
