/* Calls that block on a socket until something comes, for tests of what else may end them; and whether a thread of
   this process sleeps in one. The program fills in what they are made on. */
#ifndef BLOCKING_H
#define BLOCKING_H

#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>

#include "t.h"

enum blocking_call { READ, RECVMSG, POLL, SELECT, EPOLL, ACCEPT, CONNECT, BLOCKING_CALLS };

static const char *const blocking_names[BLOCKING_CALLS] = {"read",       "recvmsg", "poll",   "select",
                                                           "epoll_wait", "accept",  "connect"};

/* A connection on which nothing comes, an epoll set with it, a listener, and a socket whose connect gets no answer. */
struct blocking {
    int fd, set, listener, silent;
};

static inline struct blocking blocking_on(int fd)
{
    int port;
    struct blocking on = {fd, MUST(epoll_create1(0)), t_listener(0, &port), MUST(t_tcp(0))};
    struct epoll_event event = {.events = EPOLLIN};
    MUST(epoll_ctl(on.set, EPOLL_CTL_ADD, fd, &event));
    return on;
}

static inline long block_in(enum blocking_call call, const struct blocking *on)
{
    char byte;
    struct pollfd entry = {on->fd, POLLIN, 0};
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    struct epoll_event event;
    fd_set bits;
    FD_ZERO(&bits);
    FD_SET(on->fd, &bits);
    switch (call) {
    case READ:
        return read(on->fd, &byte, 1);
    case RECVMSG:
        return recvmsg(on->fd, &message, 0);
    case POLL:
        return poll(&entry, 1, -1);
    case SELECT:
        return select(on->fd + 1, &bits, NULL, NULL, NULL);
    case EPOLL:
        return epoll_wait(on->set, &event, 1, -1);
    case ACCEPT:
        return accept(on->listener, NULL, NULL);
    default:
        return t_connect(on->silent, T_BLACKHOLE, 80);
    }
}

/* Whether a process or thread (its number) sleeps now, as its kernel says. */
static inline bool is_asleep(pid_t number)
{
    char path[64], line[256] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", number);
    FILE *file = fopen(path, "r");
    if (!file)
        return false;
    bool got = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    char *end = strrchr(line, ')');
    return got && end && end[2] == 'S';
}

/* Until it sleeps for good: some looks in a row find it so. */
static inline void until_asleep(pid_t number)
{
    for (int asleep = 0, looks = 0; asleep < 5 && looks < T_PATIENCE_MS / 2; looks++) {
        asleep = is_asleep(number) ? asleep + 1 : 0;
        t_sleep_ms(2);
    }
}

static inline pid_t own_number(void)
{
    return (pid_t)syscall(SYS_gettid);
}

#endif
