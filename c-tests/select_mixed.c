/* select() over a connection, a listener and a pipe. */
#include <sys/select.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char byte;
    int control, port, pipes[2];
    fd_set readers, writers, errors;
    struct timeval none = {0, 0}, time;

    t_begin();
    int fd = peer_pair(&control), listener = t_listener(0, &port);
    MUST(pipe(pipes));
#define ASK(with_writer)                                                                                               \
    do {                                                                                                               \
        FD_ZERO(&readers); FD_ZERO(&writers); FD_ZERO(&errors);                                                        \
        FD_SET(fd, &readers); FD_SET(listener, &readers); FD_SET(pipes[0], &readers); FD_SET(fd, &errors);             \
        if (with_writer)                                                                                               \
            FD_SET(fd, &writers);                                                                                      \
        time = (struct timeval){5, 0};                                                                                 \
    } while (0)
    ASK(false);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &none), 0, "nothing ready: 0");
    CHECK(!FD_ISSET(fd, &readers) && !FD_ISSET(listener, &readers) && !FD_ISSET(pipes[0], &readers), "all bits cleared");
    ASK(true);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &time), 1, "the connection is writable");
    CHECK(FD_ISSET(fd, &writers) && !FD_ISSET(fd, &readers), "only that");
    MUST(write(pipes[1], "p", 1));
    ASK(true);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &time), 2, "and the pipe is readable");
    CHECK(FD_ISSET(pipes[0], &readers), "as its bit says");
    MUST(read(pipes[0], &byte, 1));
    MUST(peer_tell(control, "SEND 1"));
    ASK(false);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &time), 1, "sleeps until the peer's byte comes");
    CHECK(FD_ISSET(fd, &readers), "readable");
    MUST(peer_number(control));
    MUST(read(fd, &byte, 1));
    MUST(peer_tell(control, "CONNECT %s %d", T_LOCAL, port));
    ASK(false);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &time), 1, "sleeps until a connection comes");
    CHECK(FD_ISSET(listener, &readers), "the listener is readable");
    MUST(peer_number(control));
    close(MUST(accept(listener, NULL, NULL)));
    MUST(peer_ask(control, "USE 0"));
    MUST(peer_ask(control, "RESET"));
    ASK(true);
    CHECK(t_wait(fd, POLLHUP) & POLLHUP, "the peer resets");
    ASK(true);
    CHECK_EQ(select(FD_SETSIZE, &readers, &writers, &errors, &time), 2, "readable and writable, no exception");
    CHECK(FD_ISSET(fd, &readers) && FD_ISSET(fd, &writers) && !FD_ISSET(fd, &errors), "as the bits say");
    time = (struct timeval){0, 100000};
    long long start = t_now_ms();
    FD_ZERO(&readers);
    FD_SET(listener, &readers);
    CHECK_EQ(select(FD_SETSIZE, &readers, NULL, NULL, &time), 0, "the time passes: 0");
    CHECK(t_now_ms() - start >= 95, "not too early");
    CHECK(time.tv_sec == 0 && time.tv_usec == 0, "the rest of the time is 0");
    int old = fd;
    close(fd);
    FD_ZERO(&readers);
    FD_SET(old, &readers);
    CHECK_ERRNO(select(old + 1, &readers, NULL, NULL, &none), EBADF, "a closed descriptor: EBADF");
    CHECK_ERRNO(select(-1, NULL, NULL, NULL, &none), EINVAL, "-1 descriptors: EINVAL");
    time = (struct timeval){-1, 0};
    CHECK_ERRNO(select(0, NULL, NULL, NULL, &time), EINVAL, "negative time: EINVAL");
    return t_end();
}
