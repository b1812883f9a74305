/* An epoll set inherited over fork is one set for both: entries, events, changes; made before the first socket or
 * after it. EPOLLEXCLUSIVE among processes. */
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

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

/* The data of the one event, -1 for none. */
static long one(int set, int timeout)
{
    struct epoll_event got = {0};
    return epoll_wait(set, &got, 1, timeout) == 1 ? (long)got.data.u64 : -1;
}

static int status_of(pid_t child)
{
    int status = -1;
    waitpid(child, &status, 0);
    return status;
}

static void shared_set(void)
{
    int control;
    char byte;
    int fd = peer_pair(&control), set = MUST(epoll_create1(0));
    MUST(add(set, fd, EPOLLIN | EPOLLET, 1));
    pid_t child = MUST(fork());
    if (child == 0)
        _exit(one(set, T_PATIENCE_MS) == 1 && one(set, 50) == -1 ? 0 : 1);
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(status_of(child), 0, "a child sleeping on the inherited set gets the edge");
    CHECK_EQ(one(set, 50), -1, "then the parent does not");
    child = MUST(fork());
    if (child == 0)
        _exit(control_of(set, EPOLL_CTL_MOD, fd, EPOLLIN, 5) == 0 ? 0 : 1);
    CHECK_EQ(status_of(child), 0, "the child changes the entry");
    CHECK_EQ(one(set, 0), 5, "the parent sees it changed");
    MUST(read(fd, &byte, 1));
    child = MUST(fork());
    if (child == 0) {
        close(fd);
        _exit(one(set, T_PATIENCE_MS) == 5 ? 0 : 1);
    }
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(status_of(child), 0, "a child that has closed the socket still hears of it");
    MUST(read(fd, &byte, 1));
    close(fd);
    close(control);
    close(set);
}

/* The set is empty when the processes part; either puts its own sockets in. */
static void empty_at_fork(void)
{
    int control, go[2];
    int set = MUST(epoll_create1(0));
    MUST(pipe(go));
    int fd = peer_pair(&control);
    MUST(add(set, go[0], EPOLLIN | EPOLLET, 9));
    pid_t child = MUST(fork());
    if (child == 0) {
        /* Asleep before the parent adds the socket. */
        int result = one(set, T_PATIENCE_MS) == 3 ? 0 : 1;
        _exit(result);
    }
    t_sleep_ms(100);
    MUST(add(set, fd, EPOLLIN | EPOLLET, 3));
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(status_of(child), 0, "the parent adds a socket to a set that the child sleeps on");
    child = MUST(fork());
    if (child == 0) {
        int other_control;
        alarm(T_DEADLINE_SECONDS);
        int mine = peer_pair(&other_control);
        MUST(add(set, mine, EPOLLIN, 4));
        MUST(peer_ask(other_control, "SEND 1"));
        char byte;
        int done = read(go[0], &byte, 1) == 1;
        _exit(done ? 0 : 1);
    }
    CHECK_EQ(one(set, T_PATIENCE_MS), 4, "the child adds one of its own: the parent hears of it");
    MUST(write(go[1], "x", 1));
    CHECK_EQ(status_of(child), 0, "and the child ends");
    struct epoll_event got[4];
    epoll_wait(set, got, 4, 0);
    CHECK_EQ(epoll_wait(set, got, 4, 50), 0, "with it its socket");
    close(fd);
    close(control);
    close(set);
    close(go[0]);
    close(go[1]);
}

/* A second family of names: a set made before any socket at all, in a process that then forks. */
static void before_all(void)
{
    int set = MUST(epoll_create1(0)), inherited = MUST(eventfd(0, 0));
    MUST(add(set, inherited, EPOLLIN, 8));
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        int control, fd = peer_pair(&control);
        MUST(add(set, fd, EPOLLIN, 6));
        MUST(peer_ask(control, "SEND 1"));
        _exit(one(set, T_PATIENCE_MS) == 6 ? 0 : 1);
    }
    CHECK_EQ(status_of(child), 0, "a child uses a set from before the first socket");
    close(set);
    close(inherited);
}

enum { PROCESSES = 3 };

struct board {
    int ready;
    int woken;
};

static int settles(int *number, int expected)
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (__atomic_load_n(number, __ATOMIC_SEQ_CST) < expected && t_now_ms() < deadline)
        t_sleep_ms(1);
    t_sleep_ms(80);
    return __atomic_load_n(number, __ATOMIC_SEQ_CST);
}

static void workers(uint32_t flags, int expected, const char *rule)
{
    int port, listener = t_listener(SOCK_NONBLOCK, &port), control = MUST(peer_connect(PORT_COMMAND));
    struct board *board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = MUST(fork());
        if (children[i] == 0) {
            int set = epoll_create1(0);
            add(set, listener, EPOLLIN | flags, 1);
            __atomic_add_fetch(&board->ready, 1, __ATOMIC_SEQ_CST);
            if (one(set, T_PATIENCE_MS) == 1)
                __atomic_add_fetch(&board->woken, 1, __ATOMIC_SEQ_CST);
            _exit(0);
        }
    }
    settles(&board->ready, PROCESSES);
    t_sleep_ms(150);
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    CHECK_EQ(settles(&board->woken, expected), expected, "%s", rule);
    for (int i = 0; i < PROCESSES; i++) {
        kill(children[i], SIGKILL);
        status_of(children[i]);
    }
    munmap(board, sizeof *board);
    close(listener);
    close(control);
}

/* test REF C-06 */
int main(void)
{
    t_begin();
    before_all();
    shared_set();
    empty_at_fork();
    workers(0, PROCESSES, "workers with a set each: all wake");
    workers(EPOLLEXCLUSIVE, 1, "with EPOLLEXCLUSIVE: one");
    return t_end();
}
