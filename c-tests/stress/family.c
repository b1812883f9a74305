/* A family under load, to be killed: a parent that serves a listener and three workers that exchange data with the
 * peer's echo service, all in small steps without a pause. Arguments: peer's port, own listening port, file that says
 * "ready". A process that finds its connections lost ends with status 3; wrong data is status 4. */
#include "../t.h"

enum { WORKERS = 3, EACH = 3, PIECE = 6000, MOST = 64, LOST = 3, WRONG = 4 };

struct stream {
    int fd;
    uint64_t sent, got;
};

static void check(int error)
{
    if (error != EAGAIN && error != EINTR)
        _exit(LOST);
}

static void exchange(struct stream *stream)
{
    unsigned char buffer[PIECE];
    if (stream->sent - stream->got < 4 * PIECE) {
        pattern_fill(buffer, sizeof buffer, stream->sent);
        ssize_t sent = send(stream->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (sent < 0)
            check(errno);
        else
            stream->sent += (uint64_t)sent;
    }
    ssize_t got = recv(stream->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (got == 0)
        _exit(LOST);
    if (got < 0)
        check(errno);
    else if (pattern_match(buffer, (size_t)got, stream->got) != (size_t)got)
        _exit(WRONG);
    else
        stream->got += (uint64_t)got;
}

/* Says so when all its connections are there: from then on it has something to lose. */
static void work(int port, int there)
{
    struct stream streams[EACH] = {0};
    struct pollfd set[EACH];
    for (int i = 0; i < EACH; i++) {
        streams[i].fd = peer_connect(port);
        if (streams[i].fd < 0)
            _exit(LOST);
        set[i] = (struct pollfd){.fd = streams[i].fd, .events = POLLIN};
    }
    if (write(there, ".", 1) != 1)
        _exit(LOST);
    for (unsigned round = 0;; round++) {
        for (int i = 0; i < EACH; i++)
            exchange(&streams[i]);
        /* A connection of its own now and then. */
        if (round % 64 == 63) {
            int fd = peer_connect(port);
            if (fd >= 0)
                close(fd);
        }
        if (poll(set, EACH, 5) < 0 && errno != EINTR)
            _exit(LOST);
    }
}

static void serve(int listener)
{
    struct pollfd set[MOST + 1] = {{.fd = listener, .events = POLLIN}};
    int count = 1;
    char buffer[PIECE];
    for (;;) {
        if (poll(set, (nfds_t)count, -1) < 0 && errno != EINTR)
            _exit(LOST);
        for (int i = count - 1; i > 0; i--) {
            if (!set[i].revents)
                continue;
            ssize_t got = recv(set[i].fd, buffer, sizeof buffer, MSG_DONTWAIT);
            if (got < 0 && errno == EAGAIN)
                continue;
            if (got <= 0 || t_write_all(set[i].fd, buffer, (size_t)got) != got) {
                close(set[i].fd);
                set[i] = set[--count];
            }
        }
        if (set[0].revents) {
            int fd = accept(listener, NULL, NULL);
            if (fd < 0 && errno != EAGAIN && errno != ECONNABORTED)
                _exit(LOST);
            if (fd >= 0 && count <= MOST)
                set[count++] = (struct pollfd){.fd = fd, .events = POLLIN};
            else if (fd >= 0)
                close(fd);
        }
    }
}

int main(int count, char **arguments)
{
    if (count != 4)
        return 2;
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    alarm(60);
    int port = atoi(arguments[1]);
    int listener = t_tcp(0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (t_bind(listener, T_LOCAL, atoi(arguments[2])) != 0 || listen(listener, 32) != 0) {
        perror("bind or listen");
        return 5;
    }
    int there[2];
    if (pipe(there) != 0)
        return 5;
    for (int i = 0; i < WORKERS; i++)
        if (fork() == 0) {
            alarm(60);
            work(port, there[1]);
        }
    char all[WORKERS];
    if (t_read_all(there[0], all, WORKERS) != WORKERS)
        return 5;
    int ready = open(arguments[3], O_CREAT | O_WRONLY, 0600);
    close(ready);
    serve(listener);
}
