/* Epoll among threads: what another thread does to a set while one sleeps on it, and how many wake up. */
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include "t.h"

enum { THREADS = 4 };

static int set;
static volatile int woken;
static volatile int ready;
static volatile int stop;

static int add(int to, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    return epoll_ctl(to, EPOLL_CTL_ADD, fd, &event);
}

/* Long enough for a thread that is to sleep to be asleep, and for one that is not to wake to have woken. */
static void settle(void)
{
    t_sleep_ms(60);
}

static void *wait_once(void *argument)
{
    struct epoll_event event = {0};
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    int count = epoll_wait(argument ? *(int *)argument : set, &event, 1, T_PATIENCE_MS);
    if (count == 1)
        __atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
    return (void *)(long)(count == 1 ? event.data.fd : -count - 1);
}

static int woken_settles(int expected)
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (woken < expected && t_now_ms() < deadline)
        t_sleep_ms(1);
    settle();
    return woken;
}

static void start(pthread_t *threads, int count, int *sets)
{
    woken = ready = 0;
    for (int i = 0; i < count; i++)
        MUST(-pthread_create(&threads[i], NULL, wait_once, sets ? &sets[i] : NULL));
    while (ready < count)
        t_sleep_ms(1);
    /* On a busy machine each needs its turn to fall asleep. */
    t_sleep_ms(150);
}

static long join(pthread_t thread)
{
    void *result;
    pthread_join(thread, &result);
    return (long)result;
}

/* The set has nothing of interest when the thread goes to sleep; a socket comes later. */
static void added_while_waiting(void)
{
    int control, other_control, pipes[2];
    char byte;
    pthread_t threads[2];
    set = MUST(epoll_create1(0));
    MUST(pipe(pipes));
    MUST(add(set, pipes[0], EPOLLIN));
    start(threads, 2, NULL);
    int fd = peer_pair(&control);
    MUST(add(set, fd, EPOLLIN | EPOLLET));
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(woken_settles(1), 1, "a socket added to a set that two sleep on: its edge wakes one");
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(woken_settles(2), 2, "the next edge the other");
    CHECK_EQ(join(threads[0]) == fd && join(threads[1]) == fd, true, "both hear of the socket");
    start(threads, 1, NULL);
    int second = peer_pair(&other_control);
    MUST(add(set, second, EPOLLIN));
    MUST(peer_ask(other_control, "SEND 1"));
    CHECK_EQ(join(threads[0]), second, "a second socket, added while one sleeps");
    MUST(read(second, &byte, 1));
    start(threads, 1, NULL);
    MUST(write(pipes[1], "x", 1));
    CHECK_EQ(join(threads[0]), pipes[0], "a pipe in the same set");
    MUST(read(pipes[0], &byte, 1));
    MUST(read(fd, &byte, 1));

    /* MOD while another sleeps. */
    struct epoll_event event = {.events = 0, .data.fd = fd};
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    start(threads, 1, NULL);
    event.events = EPOLLIN;
    event.data.fd = 4711;
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CHECK_EQ(join(threads[0]), 4711, "MOD to an event that is there wakes the sleeper, with the new data");
    /* The last close takes the entry away and wakes nobody. */
    event.events = 0;
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    start(threads, 1, NULL);
    close(fd);
    settle();
    CHECK_EQ(woken, 0, "close of a watched socket wakes nobody");
    MUST(write(pipes[1], "x", 1));
    CHECK_EQ(join(threads[0]), pipes[0], "the sleeper sleeps on for the rest");
    close(second);
    close(set);
    close(control);
    close(other_control);
    close(pipes[0]);
    close(pipes[1]);
}

static void one_wakes(void)
{
    int control;
    char bytes[4];
    pthread_t threads[THREADS];
    set = MUST(epoll_create1(0));
    int fd = peer_pair(&control);
    MUST(add(set, fd, EPOLLIN | EPOLLET));
    start(threads, THREADS, NULL);
    for (int i = 1; i <= THREADS; i++) {
        MUST(peer_ask(control, "SEND 1"));
        CHECK_EQ(woken_settles(i), i, "edge %d wakes one thread", i);
    }
    for (int i = 0; i < THREADS; i++)
        join(threads[i]);
    MUST(t_read_all(fd, bytes, 4));
    MUST(epoll_ctl(set, EPOLL_CTL_DEL, fd, NULL));
    MUST(add(set, fd, EPOLLIN | EPOLLONESHOT));
    start(threads, 2, NULL);
    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(woken_settles(1), 1, "a one-shot wakes one thread");
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.fd = fd};
    MUST(epoll_ctl(set, EPOLL_CTL_MOD, fd, &event));
    CHECK_EQ(woken_settles(2), 2, "armed again, the next");
    join(threads[0]);
    join(threads[1]);
    close(fd);
    close(control);
    close(set);
}

/* A set per thread with the listener in each. */
static void sets_of_their_own(uint32_t flags, int expected, const char *rule)
{
    int port, control, sets[THREADS];
    pthread_t threads[THREADS];
    int listener = t_listener(SOCK_NONBLOCK, &port);
    control = MUST(peer_connect(PORT_COMMAND));
    for (int i = 0; i < THREADS; i++) {
        sets[i] = MUST(epoll_create1(0));
        MUST(add(sets[i], listener, EPOLLIN | flags));
    }
    start(threads, THREADS, sets);
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    CHECK_EQ(woken_settles(expected), expected, "%s", rule);
    for (int tries = 0; woken < THREADS && tries < THREADS; tries++) {
        MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
        settle();
    }
    CHECK_EQ(woken_settles(THREADS), THREADS, "further connections wake the rest");
    for (int i = 0; i < THREADS; i++) {
        join(threads[i]);
        close(sets[i]);
    }
    close(listener);
    close(control);
}

/* Threads in accept on one listener, and one in poll. */
static void *accept_once(void *argument)
{
    __atomic_add_fetch(&ready, 1, __ATOMIC_SEQ_CST);
    int fd = accept(*(int *)argument, NULL, NULL);
    if (fd >= 0) {
        __atomic_add_fetch(&woken, 1, __ATOMIC_SEQ_CST);
        close(fd);
    }
    return NULL;
}

static void acceptors(void)
{
    int port, listener = t_listener(0, &port), control = MUST(peer_connect(PORT_COMMAND));
    pthread_t threads[THREADS];
    woken = ready = 0;
    for (int i = 0; i < THREADS; i++)
        MUST(-pthread_create(&threads[i], NULL, accept_once, &listener));
    while (ready < THREADS)
        t_sleep_ms(1);
    settle();
    for (int i = 1; i <= THREADS; i++) {
        MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
        CHECK_EQ(woken_settles(i), i, "connection %d ends one accept", i);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    close(listener);
    close(control);
}

/* test REF C-06 */
int main(void)
{
    t_begin();
    added_while_waiting();
    one_wakes();
    sets_of_their_own(0, THREADS, "a connection wakes every set");
    sets_of_their_own(EPOLLEXCLUSIVE, 1, "EPOLLEXCLUSIVE: one set");
    sets_of_their_own(EPOLLEXCLUSIVE | EPOLLET, 1, "EPOLLEXCLUSIVE and edge: one set");
    acceptors();
    return t_end();
}
