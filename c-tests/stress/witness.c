/* The kernel's end of families that are killed: echoes what comes to PORT, keeps four connections to the family's own
 * LISTENER (0: none), checks what comes back on them, and says on its standard output how each connection ended:
 * "+" begun, "RST" or "FIN" ended, "BAD" wrong data, "ERR errno" otherwise, each with the time in microseconds. */
#include "../t.h"
#include <sys/epoll.h>

enum { CALLERS = 4, MOST = 16384, PIECE = 4096 };

static struct {
    bool caller, connecting;
    uint64_t sent, got;
} of[MOST];
static int callers;

static void say(const char *what, int number)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    printf("%s %d %lld\n", what, number, now.tv_sec * 1000000ll + now.tv_nsec / 1000);
    fflush(stdout);
}

static void add(int set, int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(set, EPOLL_CTL_ADD, fd, &event);
}

static void end(int fd, ssize_t got, int error)
{
    if (of[fd].connecting)
        ; /* nobody listens yet */
    else if (got == 0)
        say("FIN", fd);
    else if (error == ECONNRESET || error == EPIPE)
        say("RST", fd);
    else
        say("ERR", error);
    callers -= of[fd].caller;
    /* With a reset, or each connection would hold a keeper in TIME_WAIT for a minute. */
    t_set_linger(fd, 1, 0);
    close(fd);
}

static void ask(int fd)
{
    unsigned char buffer[PIECE];
    pattern_fill(buffer, sizeof buffer, of[fd].sent);
    ssize_t sent = send(fd, buffer, sizeof buffer, MSG_DONTWAIT | MSG_NOSIGNAL);
    of[fd].sent += sent > 0 ? (uint64_t)sent : 0;
}

static void handle(int set, int fd, uint32_t events)
{
    unsigned char buffer[PIECE];
    if (of[fd].connecting && events & EPOLLOUT && !(events & EPOLLERR)) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(set, EPOLL_CTL_MOD, fd, &event);
        of[fd].connecting = false;
        say("+", fd);
        ask(fd);
        return;
    }
    ssize_t got = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || errno != EAGAIN)
            end(fd, got, errno);
        return;
    }
    if (!of[fd].caller) {
        /* The family never has more under way than the buffers take. */
        if (send(fd, buffer, (size_t)got, MSG_NOSIGNAL) != got)
            end(fd, -1, errno);
        return;
    }
    if (pattern_match(buffer, (size_t)got, of[fd].got) != (size_t)got)
        say("BAD", fd);
    of[fd].got += (uint64_t)got;
    if (of[fd].got == of[fd].sent)
        ask(fd);
}

static void call(int set, int port)
{
    while (port && callers < CALLERS) {
        int fd = t_tcp(SOCK_NONBLOCK);
        if (fd < 0 || fd >= MOST)
            return;
        memset(&of[fd], 0, sizeof of[fd]);
        of[fd].caller = of[fd].connecting = true;
        callers++;
        if (t_connect(fd, T_LOCAL, port) != 0 && errno != EINPROGRESS) {
            end(fd, -1, errno);
            return;
        }
        add(set, fd, EPOLLIN | EPOLLOUT);
    }
}

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    alarm((unsigned)atoi(arguments[3]));
    int listener = t_tcp(SOCK_NONBLOCK), one = 1, set = epoll_create1(0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (t_bind(listener, T_PEER, atoi(arguments[1])) != 0 || listen(listener, 256) != 0)
        return 5;
    add(set, listener, EPOLLIN);
    say("ready", 0);
    for (;;) {
        struct epoll_event events[64];
        call(set, atoi(arguments[2]));
        int ready = epoll_wait(set, events, 64, 20);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd != listener) {
                handle(set, fd, events[i].events);
                continue;
            }
            while ((fd = accept(listener, NULL, NULL)) >= 0) {
                if (fd >= MOST) {
                    close(fd);
                    continue;
                }
                memset(&of[fd], 0, sizeof of[fd]);
                say("+", fd);
                add(set, fd, EPOLLIN);
            }
        }
    }
}
