/* Eight processes with eight threads each open, use, duplicate, poll and close sockets at random for some seconds.
 * Connections of a thread's own are checked byte by byte, whatever number they have just now; on the others, which all
 * threads of a process use and close at will, every errno must be one that Linux may give there. At the end all have
 * come to an end by themselves and no descriptor is left.
 *
 * STRESS_SECONDS (5) and STRESS_SEED (the time) change it; the seed is printed on standard error. */
#include "t.h"

#include <pthread.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <dirent.h>
#include <stdatomic.h>

enum { PROCESSES = 8, THREADS = 8, SHARED = 24, LONGEST = 20000 };

static struct timespec end_at;
static uint64_t seed;
/* Sockets that every thread of the process uses and closes. */
static _Atomic int shared[SHARED];
static int inherited_listener, inherited_udp, listener_port;
static _Atomic unsigned long operations, exchanges;

static uint64_t next(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static unsigned below(uint64_t *state, unsigned limit)
{
    return (unsigned)(next(state) % limit);
}

static bool is_over(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > end_at.tv_sec || (now.tv_sec == end_at.tv_sec && now.tv_nsec >= end_at.tv_nsec);
}

__attribute__((format(printf, 1, 2), noreturn)) static void fail(const char *format, ...)
{
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = snprintf(line, sizeof line, "process %d, seed %llu: ", getpid(), (unsigned long long)seed);
    vsnprintf(line + length, sizeof line - (size_t)length, format, arguments);
    va_end(arguments);
    dprintf(2, "%s\n", line);
    _exit(1);
}

/* ---- a connection of the thread's own ---- */

static void wait_for(uint64_t *state, int fd, short events)
{
    int ready = 0;
    switch (below(state, 4)) {
    case 0: {
        struct pollfd one = {.fd = fd, .events = events};
        ready = poll(&one, 1, 8000);
        break;
    }
    case 1: {
        if (fd >= FD_SETSIZE)
            return;
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        struct timeval limit = {.tv_sec = 8};
        ready = select(fd + 1, events & POLLIN ? &set : NULL, events & POLLOUT ? &set : NULL, NULL, &limit);
        break;
    }
    case 2: {
        int set = epoll_create1(EPOLL_CLOEXEC);
        struct epoll_event event = {.events = (uint32_t)events};
        if (set < 0 || epoll_ctl(set, EPOLL_CTL_ADD, fd, &event) != 0)
            fail("epoll: %s", strerrorname_np(errno));
        ready = epoll_wait(set, &event, 1, 8000);
        close(set);
        break;
    }
    default:
        return; /* the blocking call waits itself */
    }
    if (ready != 1)
        fail("nothing comes within 8 s: %d %s", ready, ready < 0 ? strerrorname_np(errno) : "");
}

/* The same socket under another number, or under the same. */
static int renumber(uint64_t *state, int fd)
{
    int other;
    switch (below(state, 6)) {
    case 0:
        other = dup(fd);
        break;
    case 1:
        other = fcntl(fd, F_DUPFD_CLOEXEC, (int)below(state, 100) + 200);
        break;
    default:
        return fd;
    }
    if (other < 0)
        fail("dup: %s", strerrorname_np(errno));
    close(fd);
    return other;
}

static void echo(uint64_t *state)
{
    unsigned char buffer[8192];
    int fd = peer_connect(PORT_ECHO);
    if (fd < 0)
        fail("connect to the echo service: %s", strerrorname_np(errno));
    struct timeval limit = {.tv_sec = 8};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    uint64_t sent = 0, got = 0, total = below(state, LONGEST) + 1;
    while (got < total) {
        fd = renumber(state, fd);
        size_t wanted = below(state, sizeof buffer) + 1;
        if (wanted > total - sent)
            wanted = total - sent;
        if (wanted > 0) {
            pattern_fill(buffer, wanted, sent);
            ssize_t written = send(fd, buffer, wanted, MSG_NOSIGNAL);
            if (written <= 0)
                fail("send: %zd %s", written, strerrorname_np(errno));
            sent += (uint64_t)written;
        }
        while (got < sent) {
            fd = renumber(state, fd);
            wait_for(state, fd, POLLIN);
            ssize_t more = recv(fd, buffer, below(state, sizeof buffer) + 1, 0);
            if (more <= 0)
                fail("recv after %llu of %llu: %zd %s", (unsigned long long)got, (unsigned long long)sent, more,
                     more < 0 ? strerrorname_np(errno) : "");
            if (pattern_match(buffer, (size_t)more, got) != (size_t)more)
                fail("wrong byte after %llu", (unsigned long long)got);
            got += (uint64_t)more;
        }
    }
    if (below(state, 2)) {
        if (shutdown(fd, SHUT_WR) != 0)
            fail("shutdown: %s", strerrorname_np(errno));
        ssize_t last = recv(fd, buffer, sizeof buffer, 0);
        if (last != 0)
            fail("no end after the FIN: %zd %s", last, last < 0 ? strerrorname_np(errno) : "");
    } else {
        t_set_linger(fd, 1, 0);
    }
    if (close(fd) != 0)
        fail("close: %s", strerrorname_np(errno));
    exchanges++;
}

/* A child uses the connection, too, and ends without a word. */
static void echo_in_child(uint64_t *state)
{
    pid_t child = fork();
    if (child < 0)
        fail("fork: %s", strerrorname_np(errno));
    if (child == 0) {
        alarm(14);
        echo(state);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0)
        fail("the child ended with %x", status);
    next(state);
}

/* ---- what all use and close ---- */

static void allow(const char *what, long result, const int *errnos)
{
    if (result >= 0)
        return;
    for (int error = errno; *errnos; errnos++)
        if (*errnos == error)
            return;
    fail("%s gave %s", what, strerrorname_np(errno));
}

#define ALLOW(call, ...) allow(#call, (long)(call), (const int[]){__VA_ARGS__, 0})

static void open_one(uint64_t *state, _Atomic int *place)
{
    int fd = -1;
    switch (below(state, 4)) {
    case 0:
        fd = t_tcp(SOCK_NONBLOCK);
        break;
    case 1:
        fd = t_udp(SOCK_NONBLOCK);
        break;
    case 2:
        fd = t_tcp(SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            ALLOW(t_connect(fd, T_PEER, PORT_DISCARD), EINPROGRESS, EBADF, EISCONN, EALREADY, ENOTSOCK);
        break;
    default:
        fd = epoll_create1(0);
    }
    if (fd < 0)
        fail("no socket: %s", strerrorname_np(errno));
    fd = atomic_exchange(place, fd);
    if (fd >= 0)
        ALLOW(close(fd), EBADF);
}

static void disturb(uint64_t *state)
{
    char buffer[600] = {0};
    _Atomic int *place = &shared[below(state, SHARED)];
    int fd = *place, other = shared[below(state, SHARED)], one = 1;
    socklen_t length = sizeof one;
    struct pollfd two[2] = {{.fd = fd, .events = POLLIN}, {.fd = other, .events = POLLOUT}};
    struct epoll_event event = {.events = POLLIN};
    struct sockaddr_in name;
    socklen_t name_length = sizeof name;
    if (fd < 0) {
        open_one(state, place);
        return;
    }
    switch (below(state, 14)) {
    case 0:
        open_one(state, place);
        break;
    case 1:
        fd = atomic_exchange(place, -1);
        if (fd >= 0)
            ALLOW(close(fd), EBADF);
        break;
    case 2:
        ALLOW(send(fd, buffer, below(state, sizeof buffer), MSG_DONTWAIT | MSG_NOSIGNAL), EAGAIN, EBADF, ENOTSOCK, EPIPE,
              ENOTCONN, ECONNRESET, EDESTADDRREQ, ECONNREFUSED);
        break;
    case 3:
        ALLOW(recv(fd, buffer, sizeof buffer, MSG_DONTWAIT), EAGAIN, EBADF, ENOTSOCK, ENOTCONN, ECONNRESET, ECONNREFUSED);
        break;
    case 4:
        ALLOW(poll(two, 2, (int)below(state, 3)), EBADF);
        break;
    case 5:
        ALLOW(t_connect(fd, T_PEER, below(state, 2) ? PORT_CLOSED : PORT_DISCARD), EINPROGRESS, EALREADY, EISCONN, EBADF,
              ENOTSOCK, ECONNREFUSED, ECONNRESET, ECONNABORTED, EINVAL, EADDRNOTAVAIL);
        break;
    case 6:
        ALLOW(getsockopt(fd, SOL_SOCKET, SO_ERROR, &one, &length), EBADF, ENOTSOCK);
        break;
    case 7:
        ALLOW(setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, length), EBADF, ENOTSOCK);
        break;
    case 8:
        ALLOW(shutdown(fd, (int)below(state, 3)), EBADF, ENOTSOCK, ENOTCONN);
        break;
    case 9:
        ALLOW(epoll_ctl(fd, (int)below(state, 3) + 1, other, &event), EBADF, EINVAL, EEXIST, ENOENT, ELOOP, EPERM,
              ENOSPC);
        break;
    case 10:
        ALLOW(epoll_wait(fd, &event, 1, (int)below(state, 2)), EBADF, EINVAL);
        break;
    case 11:
        ALLOW(getsockname(fd, (struct sockaddr *)&name, &name_length), EBADF, ENOTSOCK);
        break;
    case 12:
        /* Over the other one: it is closed and stands for this one. */
        fd = dup(fd);
        ALLOW(fd, EBADF);
        if (fd >= 0 && (fd = atomic_exchange(&shared[below(state, SHARED)], fd)) >= 0)
            ALLOW(close(fd), EBADF);
        break;
    default:
        ALLOW(accept4(inherited_listener, NULL, NULL, SOCK_NONBLOCK), EAGAIN, ECONNABORTED);
    }
    operations++;
}

/* A datagram over a socket that all eight processes have. */
static void datagram(uint64_t *state)
{
    char buffer[64] = {0};
    struct sockaddr_in to = t_address(T_PEER, PORT_UDP_ECHO);
    ALLOW(sendto(inherited_udp, buffer, below(state, sizeof buffer) + 1, MSG_DONTWAIT, (struct sockaddr *)&to, sizeof to),
          EAGAIN);
    ALLOW(recv(inherited_udp, buffer, sizeof buffer, MSG_DONTWAIT), EAGAIN);
    operations++;
}

static void *run(void *argument)
{
    uint64_t state = seed ^ (uint64_t)(uintptr_t)argument * 0x9e3779b97f4a7c15u;
    while (!is_over()) {
        switch (below(&state, 24)) {
        case 0:
        case 1:
        case 2:
            echo(&state);
            break;
        case 3:
            if (below(&state, 8) == 0)
                echo_in_child(&state);
            break;
        case 4:
            datagram(&state);
            break;
        default:
            disturb(&state);
        }
    }
    return NULL;
}

static int open_descriptors(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    while (directory && readdir(directory))
        count++;
    if (directory)
        closedir(directory);
    return count;
}

static void process(unsigned number)
{
    pthread_t threads[THREADS];
    alarm((unsigned)(atoi(getenv("STRESS_SECONDS") ?: "5") + 11));
    for (int i = 0; i < SHARED; i++)
        shared[i] = -1;
    for (unsigned i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], NULL, run, (void *)(uintptr_t)(number * THREADS + i + 1)) != 0)
            fail("no thread");
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < SHARED; i++)
        if (shared[i] >= 0)
            close(shared[i]);
    /* Those that lost their number to a race of two closes are few: no more than there were threads. */
    int left = open_descriptors();
    close(inherited_udp);
    close(inherited_listener);
    if (open_descriptors() > left - 2)
        fail("%d descriptors are left of %d", open_descriptors(), left);
    if (operations < 10 || exchanges < 1)
        fail("only %lu calls and %lu exchanges", operations, exchanges);
    _exit(0);
}

int main(void)
{
    pid_t children[PROCESSES];
    int seconds = atoi(getenv("STRESS_SECONDS") ?: "5");
    t_begin();
    t_arm_deadline((unsigned)seconds + 12);
    seed = getenv("STRESS_SEED") ? strtoull(getenv("STRESS_SEED"), NULL, 0) : (uint64_t)time(NULL);
    dprintf(2, "STRESS_SEED=%llu\n", (unsigned long long)seed);
    clock_gettime(CLOCK_MONOTONIC, &end_at);
    end_at.tv_sec += seconds;
    inherited_listener = t_listener(SOCK_NONBLOCK, &listener_port);
    inherited_udp = MUST(t_udp(0));
    MUST(t_bind(inherited_udp, T_LOCAL, 0));
    for (unsigned i = 0; i < PROCESSES; i++) {
        children[i] = MUST(fork());
        if (children[i] == 0)
            process(i);
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        CHECK_EQ(waitpid(children[i], &status, 0), children[i], "process %d ends by itself", i);
        CHECK_EQ(status, 0, "process %d found nothing that Linux would not do", i);
    }
    int fd = peer_connect(PORT_ECHO);
    CHECK(fd >= 0, "the parent connects after it all");
    CHECK_EQ(write(fd, "end", 3), 3, "it writes");
    char word[3];
    CHECK(t_read_all(fd, word, 3) == 3 && memcmp(word, "end", 3) == 0, "and reads the same");
    return t_end();
}
