/* A descriptor is closed, put under another file, or shut down while another thread is blocked on it: what the call
   does then, and when something comes for the socket that it began with. */
#include <pthread.h>

#include "blocking.h"

enum action { CLOSE, DUP2_PIPE, DUP2_SOCKET, SHUTDOWN, ACTIONS };
static const char *const action_names[ACTIONS] = {"close", "dup2 of a pipe over it", "dup2 of a socket over it",
                                                  "shutdown of the read half"};

/* What Linux does. A call that reads or accepts keeps the file that it began with. poll and select sleep on that file,
   and look at what stands under the number when something wakes them; a set forgets a file that has gone. */
static const struct row {
    enum blocking_call call;
    enum action action;
    bool sleeps_on;
    long result;
    int events;
    int error;
} rows[] = {
    {READ, CLOSE, true, 1, 0, 0},
    {READ, DUP2_PIPE, true, 1, 0, 0},
    {READ, DUP2_SOCKET, true, 1, 0, 0},
    {READ, SHUTDOWN, false, 0, 0, 0},
    {RECVMSG, CLOSE, true, 1, 0, 0},
    {RECVMSG, DUP2_PIPE, true, 1, 0, 0},
    {RECVMSG, DUP2_SOCKET, true, 1, 0, 0},
    {RECVMSG, SHUTDOWN, false, 0, 0, 0},
    {POLL, CLOSE, true, 1, POLLNVAL, 0},
    {POLL, DUP2_PIPE, true, 0, 0, 0},
    {POLL, DUP2_SOCKET, true, 1, POLLHUP, 0},
    {POLL, SHUTDOWN, false, 1, POLLIN, 0},
    {SELECT, CLOSE, true, 1, true, 0},
    {SELECT, DUP2_PIPE, true, 0, false, 0},
    {SELECT, DUP2_SOCKET, true, 1, true, 0},
    {SELECT, SHUTDOWN, false, 1, true, 0},
    {EPOLL, CLOSE, true, 0, 0, 0},
    {EPOLL, DUP2_PIPE, true, 0, 0, 0},
    {EPOLL, DUP2_SOCKET, true, 0, 0, 0},
    {EPOLL, SHUTDOWN, false, 1, EPOLLIN, 0},
    {ACCEPT, CLOSE, true, 0, 0, 0},
    {ACCEPT, DUP2_PIPE, true, 0, 0, 0},
    {ACCEPT, DUP2_SOCKET, true, 0, 0, 0},
    {ACCEPT, SHUTDOWN, false, -1, 0, EINVAL},
};

static struct blocking on;
static volatile pid_t started;
static volatile bool ended;
static long result;
static int events, error;

/* As block_in, but with an end, and what came. */
static void *blocks(void *argument)
{
    enum blocking_call call = *(enum blocking_call *)argument;
    struct pollfd entry = {on.fd, POLLIN, 0};
    struct epoll_event event = {0};
    fd_set bits;
    struct timeval end = {1, 500000};
    FD_ZERO(&bits);
    FD_SET(on.fd, &bits);
    started = own_number();
    errno = 0;
    switch (call) {
    case POLL:
        result = poll(&entry, 1, 1500);
        events = entry.revents;
        break;
    case SELECT:
        result = select(on.fd + 1, &bits, NULL, NULL, &end);
        events = FD_ISSET(on.fd, &bits);
        break;
    case EPOLL:
        result = epoll_wait(on.set, &event, 1, 1500);
        events = (int)event.events;
        break;
    default:
        result = block_in(call, &on);
        events = 0;
    }
    error = result < 0 ? errno : 0;
    ended = true;
    return NULL;
}

static void take_away(enum action action, int fd, int pipe_end, int other)
{
    switch (action) {
    case CLOSE:
        MUST(close(fd));
        break;
    case DUP2_PIPE:
        MUST(dup2(pipe_end, fd));
        break;
    case DUP2_SOCKET:
        MUST(dup2(other, fd));
        break;
    default:
        MUST(shutdown(fd, SHUT_RD));
    }
}

static void try(const struct row *row)
{
    enum blocking_call call = row->call;
    int control, pipes[2], other = MUST(t_tcp(0)), port = 0;
    pthread_t thread;
    int fd = peer_pair(&control);
    on = blocking_on(fd);
    close(on.listener);
    on.listener = t_listener(0, &port);
    MUST(pipe(pipes));
    started = ended = 0;
    MUST(-pthread_create(&thread, NULL, blocks, &call));
    while (!started)
        t_sleep_ms(1);
    until_asleep(started);
    take_away(row->action, call == ACCEPT ? on.listener : fd, pipes[0], other);
    for (int i = 0; i < 10 && !ended; i++)
        t_sleep_ms(5);
    const char *name = blocking_names[call], *action = action_names[row->action];
    CHECK_EQ(!ended, row->sleeps_on, "%s, %s: %s", name, action, row->sleeps_on ? "it sleeps on" : "it ends");
    if (call == ACCEPT && row->sleeps_on)
        MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    else if (row->sleeps_on)
        peer_tell(control, "SEND 1");
    MUST(-pthread_join(thread, NULL));
    bool accepted = call == ACCEPT && result >= 0;
    if (accepted)
        close((int)result);
    CHECK_EQ(accepted ? 0 : result, row->result, "%s, %s: its result", name, action);
    CHECK_EQ(events, row->events, "%s, %s: its events", name, action);
    CHECK_EQ(error, row->error, "%s, %s: its error", name, action);
    close(control);
    close(fd);
    close(on.listener);
    close(on.set);
    close(on.silent);
    close(other);
    close(pipes[0]);
    close(pipes[1]);
}

/* test REF D-01 */
int main(void)
{
    t_begin();
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        try(&rows[i]);
    return t_end();
}
