/* What names an entry of an epoll set: number and open file together. Arguments, flags, and the order of ready events. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>

#include "t.h"

static int add(int set, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static int mod(int set, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, EPOLL_CTL_MOD, fd, &event);
}

static int next(int set, struct epoll_event *got, int timeout)
{
    got->events = 0;
    got->data.u64 = 0;
    return epoll_wait(set, got, 1, timeout);
}

static void keys(void)
{
    int control;
    char byte;
    struct epoll_event got[8];
    int fd = peer_pair(&control), set = MUST(epoll_create1(EPOLL_CLOEXEC)), copy = MUST(dup(fd));

    CHECK_EQ(add(set, fd, EPOLLIN, 1), 0, "the first number");
    CHECK_EQ(add(set, copy, EPOLLIN, 2), 0, "a duplicate is another entry");
    CHECK_ERRNO(add(set, copy, EPOLLIN, 2), EEXIST, "the duplicate twice: EEXIST");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT, "a byte");
    CHECK_EQ(epoll_wait(set, got, 8, T_PATIENCE_MS), 2, "both entries report it");
    CHECK_EQ(got[0].data.u64 + got[1].data.u64, 3, "each with its data");
    CHECK_EQ(mod(set, copy, EPOLLOUT, 7), 0, "MOD of one");
    CHECK_EQ(epoll_wait(set, got, 8, 0), 2, "leaves the other");

    /* The registered number closes and is used again: the entry stays, with nobody to name it. */
    close(copy);
    CHECK_EQ(epoll_wait(set, got, 8, 0), 2, "closed while another number has the file: both report");
    int spare = MUST(t_tcp(0));
    CHECK_EQ(spare, copy, "the number is used again");
    CHECK_ERRNO(mod(set, spare, EPOLLIN, 9), ENOENT, "by another file: ENOENT");
    CHECK_EQ(add(set, spare, EPOLLIN, 9), 0, "which can be added beside the old entry");
    CHECK_EQ(epoll_wait(set, got, 8, 0), 3, "a fresh socket hangs up; three report");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_DEL, spare, NULL), 0, "and deleted");
    CHECK_EQ(epoll_wait(set, got, 8, 0), 2, "without the old one going");
    close(spare);
    CHECK_EQ(MUST(dup2(fd, copy)), copy, "the first file under that number again");
    CHECK_EQ(mod(set, copy, EPOLLIN, 5), 0, "finds its entry");
    MUST(read(fd, &byte, 1));
    CHECK_EQ(epoll_wait(set, got, 8, 0), 0, "nothing left to read");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_DEL, copy, NULL), 0, "DEL");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_DEL, copy, NULL), ENOENT, "DEL again: ENOENT");

    /* dup2 over a registered number. */
    int pipes[2];
    MUST(pipe(pipes));
    CHECK_EQ(add(set, copy, EPOLLIN, 6), 0, "registered");
    MUST(dup2(pipes[0], copy));
    MUST(peer_ask(control, "SEND 1"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT, "a byte");
    CHECK_EQ(epoll_wait(set, got, 8, T_PATIENCE_MS), 2, "dup2 over a number whose file lives: its entry stays");
    close(fd);
    CHECK_EQ(epoll_wait(set, got, 8, 0), 0, "the last close ends both");
    close(copy);
    close(control);
    close(set);
}

static void arguments(void)
{
    struct epoll_event event = {.events = EPOLLIN}, got[4];
    int fd = MUST(t_udp(0)), set = MUST(epoll_create1(0)), file = MUST(open("/proc/self/exe", O_RDONLY));
    struct timespec bad = {0, 1000000000}, soon = {0, 1};
    /* Out of the compiler's sight. */
    volatile int too_few = -1, too_many = 0x7fffffff / (int)sizeof got[0] + 1;

    CHECK_EQ(add(set, fd, EPOLLIN, 0), 0, "a datagram socket");
    CHECK_ERRNO(add(set, file, EPOLLIN, 0), EPERM, "a regular file: EPERM");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, fd, NULL), EFAULT, "ADD without an event: EFAULT");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_MOD, fd, NULL), EFAULT, "MOD without an event: EFAULT");
    CHECK_ERRNO(epoll_ctl(set, 0, fd, &event), EINVAL, "operation 0: EINVAL");
    CHECK_ERRNO(epoll_ctl(fd, EPOLL_CTL_ADD, set, &event), EINVAL, "a socket is no set: EINVAL");
    CHECK_ERRNO(epoll_ctl(fd, EPOLL_CTL_ADD, fd, &event), EINVAL, "nor of itself: EINVAL");
    CHECK_ERRNO(epoll_ctl(file, EPOLL_CTL_ADD, fd, &event), EINVAL, "a file is no set: EINVAL");
    CHECK_ERRNO(epoll_ctl(set, EPOLL_CTL_ADD, file, &event), EPERM, "a file before the kind of set: EPERM");
    CHECK_ERRNO(epoll_ctl(fd, EPOLL_CTL_ADD, file, &event), EPERM, "so even where the set is none: EPERM");
    CHECK_ERRNO(epoll_wait(set, got, too_few, 0), EINVAL, "room for less than nothing: EINVAL");
    CHECK_ERRNO(epoll_wait(set, got, too_many, 0), EINVAL, "room beyond all memory: EINVAL");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "nothing to report yet");
    CHECK_ERRNO(epoll_pwait2(set, got, 4, &bad, NULL), EINVAL, "a time that is none: EINVAL");
    CHECK_EQ(epoll_pwait2(set, got, 4, &soon, NULL), 0, "a nanosecond");
    CHECK_ERRNO(epoll_pwait2(set, got, 4, t_nowhere, NULL), EFAULT, "a time nowhere: EFAULT");
    CHECK_ERRNO(epoll_wait(-1, got, 4, 0), EBADF, "no set: EBADF");
    CHECK_ERRNO(epoll_wait(fd, got, 4, 0), EINVAL, "no epoll: EINVAL");
    CHECK_EQ(mod(set, fd, EPOLLOUT | EPOLLWAKEUP, 0), 0, "EPOLLWAKEUP is taken");
    CHECK_ERRNO(epoll_wait(set, t_nowhere, 4, 0), EFAULT, "events nowhere: EFAULT");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 1, "and the event is not lost");
    CHECK_EQ(got[0].events, EPOLLOUT, "as asked");
    CHECK_EQ(mod(set, fd, EPOLLMSG | EPOLLPRI | EPOLLRDBAND | EPOLLWRNORM, 0), 0, "rare bits");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 1, "are reported");
    CHECK_EQ(got[0].events, EPOLLWRNORM, "those that are");
    CHECK_ERRNO(mod(set, fd, EPOLLIN | EPOLLEXCLUSIVE, 0), EINVAL, "EPOLLEXCLUSIVE by MOD: EINVAL");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_DEL, fd, t_nowhere), 0, "DEL does not look at the event");
    CHECK_ERRNO(add(set, fd, EPOLLRDHUP | EPOLLEXCLUSIVE, 0), EINVAL, "EPOLLRDHUP beside EPOLLEXCLUSIVE: EINVAL");
    CHECK_ERRNO(add(set, fd, EPOLLIN | EPOLLONESHOT | EPOLLEXCLUSIVE, 0), EINVAL, "EPOLLONESHOT beside it: EINVAL");
    CHECK_EQ(add(set, fd, EPOLLIN | EPOLLEXCLUSIVE | EPOLLET | EPOLLWAKEUP, 0), 0, "edge and wake-up go with it");
    CHECK_ERRNO(mod(set, fd, EPOLLIN, 0), EINVAL, "MOD of an exclusive entry: EINVAL");
    CHECK_EQ(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL), 0, "DEL of it");
    CHECK_EQ(add(set, fd, 0, 77), 0, "no event asked for");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "none reported");
    close(fd);
    close(file);
    close(set);
}

/* Level-triggered entries that stay ready take turns; what became ready first is reported first. */
static void order(void)
{
    enum { COUNT = 5 };
    int fds[COUNT], control[COUNT], event_fd = MUST(eventfd(1, 0)), set = MUST(epoll_create1(0));
    int seen[COUNT + 1] = {0};
    struct epoll_event got[8];

    for (int i = 0; i < COUNT; i++) {
        fds[i] = peer_pair(&control[i]);
        MUST(add(set, fds[i], EPOLLIN, (uint64_t)i));
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        MUST(peer_ask(control[i], "SEND 2"));
        CHECK_MASK(fds[i], MASK_IN | MASK_OUT, "connection %d has bytes", i);
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        CHECK_EQ(next(set, got, 0), 1, "room for one: one");
        CHECK_EQ(got[0].data.u64, i, "in the order of arrival");
    }
    for (int i = COUNT - 1; i >= 0; i--) {
        next(set, got, 0);
        CHECK_EQ(got[0].data.u64, i, "and round again");
    }
    MUST(add(set, event_fd, EPOLLIN, COUNT));
    for (int i = 0; i < 4 * (COUNT + 1); i++)
        if (next(set, got, 0) == 1 && got[0].data.u64 <= COUNT)
            seen[got[0].data.u64]++;
    for (int i = 0; i <= COUNT; i++)
        CHECK(seen[i] > 0, "neither sockets nor the kernel's descriptors starve: %d", i);
    for (int i = 0; i < COUNT; i++) {
        close(fds[i]);
        close(control[i]);
    }
    close(event_fd);
    close(set);
}

/* An edge is an event of the kind asked for, not the state that another event finds. */
static void edges(void)
{
    int control, set = MUST(epoll_create1(0));
    char bytes[8];
    struct epoll_event got[4];
    int fd = peer_pair(&control);

    MUST(add(set, fd, EPOLLOUT | EPOLLET, 1));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 1, "writable when added: one edge");
    CHECK_EQ(epoll_wait(set, got, 4, 0), 0, "reported once");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_MASK(fd, MASK_IN | MASK_OUT, "a byte");
    CHECK_EQ(epoll_wait(set, got, 4, 50), 0, "input is no edge of output");
    MUST(mod(set, fd, EPOLLIN | EPOLLOUT | EPOLLET, 2));
    CHECK_EQ(epoll_wait(set, got, 4, 0), 1, "MOD looks again");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT, "both bits");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "more input without a read: another edge");
    CHECK_EQ(got[0].events, EPOLLIN | EPOLLOUT, "with all that is so");
    MUST(read(fd, bytes, 1));
    CHECK_EQ(epoll_wait(set, got, 4, 50), 0, "what is left is no edge");
    MUST(mod(set, fd, EPOLLRDHUP | EPOLLET, 3));
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(epoll_wait(set, got, 4, 50), 0, "RDHUP asked for: input says nothing");
    MUST(peer_ask(control, "FIN"));
    CHECK_EQ(epoll_wait(set, got, 4, T_PATIENCE_MS), 1, "the end does");
    CHECK_EQ(got[0].events, EPOLLRDHUP, "RDHUP alone");
    close(fd);
    close(control);
    close(set);
}

/* test REF C-06 */
int main(void)
{
    t_begin();
    keys();
    arguments();
    order();
    edges();
    return t_end();
}
