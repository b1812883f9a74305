/* Epoll sets in epoll sets: level and edge, one-shot, through copies and forks, two deep; loops and depth. */
#include <sys/epoll.h>
#include <sys/select.h>

#include "t.h"

static int control_of(int set, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(set, operation, fd, &event);
}

static int add(int set, int fd, uint32_t events, uint64_t data)
{
    return control_of(set, EPOLL_CTL_ADD, fd, events, data);
}

static struct epoll_event got[8];

static int look(int set, int timeout)
{
    memset(got, 0, sizeof got);
    return epoll_wait(set, got, 8, timeout);
}

static void level_and_edge(bool early)
{
    int control, fd = -1, inner = MUST(epoll_create1(0)), outer = MUST(epoll_create1(0)), edge = MUST(epoll_create1(0));
    int top = MUST(epoll_create1(0)), shot = MUST(epoll_create1(0));
    char byte;

    /* The socket goes in before the nesting, or after it. */
    fd = peer_pair(&control);
    if (early)
        MUST(add(inner, fd, EPOLLIN, 1));
    MUST(add(outer, inner, EPOLLIN, 10));
    MUST(add(edge, inner, EPOLLIN | EPOLLET, 20));
    MUST(add(shot, inner, EPOLLIN | EPOLLONESHOT, 40));
    MUST(add(top, outer, EPOLLIN, 30));
    if (!early)
        MUST(add(inner, fd, EPOLLIN, 1));
    CHECK_EQ(look(outer, 0), 0, "nothing yet");
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(look(outer, T_PATIENCE_MS), 1, "a byte: the outer set reports");
    CHECK_EQ(got[0].data.u64, 10, "the inner one's data");
    CHECK_EQ(got[0].events, EPOLLIN, "as readable");
    MUST(peer_number(control));
    CHECK_EQ(look(outer, 0), 1, "level: again");
    CHECK_EQ(look(top, 0), 1, "two deep");
    CHECK_EQ(got[0].data.u64, 30, "with its data");
    CHECK_EQ(look(edge, 0), 1, "edge: once");
    CHECK_EQ(look(edge, 0), 0, "and no more");
    CHECK_EQ(look(shot, 0), 1, "one-shot: once");
    CHECK_EQ(t_mask(top), MASK_IN, "a set of sets polls IN");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(look(edge, T_PATIENCE_MS), 1, "another byte is another edge");
    CHECK_EQ(look(shot, 50), 0, "but not another shot");
    MUST(control_of(shot, EPOLL_CTL_MOD, inner, EPOLLIN | EPOLLONESHOT, 41));
    CHECK_EQ(look(shot, 0), 1, "until armed again");
    CHECK_EQ(got[0].data.u64, 41, "with the new data");
    CHECK_EQ(look(inner, 0), 1, "the inner set");
    CHECK_EQ(got[0].data.u64, 1, "has the socket");
    MUST(read(fd, &byte, 1));
    MUST(read(fd, &byte, 1));
    CHECK_EQ(look(outer, 0), 0, "read empty: the outer set is quiet");
    CHECK_EQ(look(top, 0), 0, "and the one above");
    CHECK_EQ(look(inner, 0), 0, "and the inner one");
    CHECK_EQ(t_mask(top), 0, "none polls IN");
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(t_wait(top, POLLIN), POLLIN, "poll sleeps on sets in sets");
    MUST(peer_number(control));
    fd_set set;
    FD_ZERO(&set);
    FD_SET(top, &set);
    struct timeval patience = {5, 0};
    CHECK_EQ(select(top + 1, &set, NULL, NULL, &patience), 1, "select too");
    MUST(read(fd, &byte, 1));

    /* A copy of the inner set is the same set; the number it was added by may go. */
    int copy = MUST(dup(inner));
    close(inner);
    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(look(outer, T_PATIENCE_MS), 1, "the added number is closed, a copy lives: still there");
    MUST(peer_number(control));
    pid_t child = MUST(fork());
    if (child == 0)
        _exit(look(top, 0) == 1 && got[0].data.u64 == 30 ? 0 : 1);
    int status;
    MUST(waitpid(child, &status, 0));
    CHECK_EQ(status, 0, "a child finds the same in the inherited sets");
    close(copy);
    CHECK_EQ(look(outer, 0), 0, "the last close of the inner set ends it");
    close(fd);
    close(control);
    close(outer);
    close(edge);
    close(shot);
    close(top);
}

static void limits(void)
{
    enum { DEEP = 6 };
    int sets[DEEP], fd = MUST(t_udp(0));
    for (int i = 0; i < DEEP; i++)
        sets[i] = MUST(epoll_create1(0));
    MUST(add(sets[0], fd, EPOLLIN, 0));
    CHECK_ERRNO(add(sets[0], sets[0], EPOLLIN, 0), EINVAL, "a set in itself: EINVAL");
    int made = 0;
    while (made < DEEP - 1 && add(sets[made + 1], sets[made], EPOLLIN, 0) == 0)
        made++;
    CHECK_EQ(errno, ELOOP, "too deep: ELOOP");
    CHECK_EQ(made, 4, "four sets in a fifth");
    CHECK_ERRNO(add(sets[0], sets[2], EPOLLIN, 0), ELOOP, "a loop: ELOOP");
    CHECK_ERRNO(add(sets[1], sets[0], EPOLLIN, 0), EEXIST, "twice: EEXIST");
    CHECK_ERRNO(control_of(sets[2], EPOLL_CTL_MOD, sets[0], EPOLLIN, 0), ENOENT, "MOD of what is not in it: ENOENT");
    CHECK_ERRNO(epoll_ctl(sets[1], EPOLL_CTL_ADD, sets[0], t_nowhere), EFAULT, "an event nowhere: EFAULT");
    CHECK_ERRNO(add(sets[5], sets[0], EPOLLIN | EPOLLEXCLUSIVE, 0), EINVAL, "EPOLLEXCLUSIVE of a set: EINVAL");
    CHECK_EQ(epoll_ctl(sets[1], EPOLL_CTL_DEL, sets[0], NULL), 0, "taken out");
    CHECK_EQ(add(sets[0], sets[2], EPOLLIN, 0), 0, "there is no loop");
    for (int i = 0; i < DEEP; i++)
        close(sets[i]);
    close(fd);
}

/* test REF C-06 */
int main(void)
{
    t_begin();
    level_and_edge(true);
    level_and_edge(false);
    limits();
    return t_end();
}
