/* pselect(): the signal mask holds during the wait only, the time is not changed. */
#include <sys/select.h>

#include "t.h"

/* test REF C-04 */
int main(void)
{
    int control;
    sigset_t blocked, empty;
    fd_set readers;

    t_begin();
    int fd = peer_pair(&control);
    struct timespec short_time = {0, 100000000}, long_time = {5, 0};
    t_catch(SIGUSR1, 0);
    sigemptyset(&empty);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    raise(SIGUSR1);
    FD_ZERO(&readers);
    FD_SET(fd, &readers);
    CHECK_EQ(pselect(fd + 1, &readers, NULL, NULL, &short_time, NULL), 0, "a blocked signal does not interrupt");
    CHECK_EQ(short_time.tv_nsec, 100000000, "the time given is not changed");
    FD_SET(fd, &readers);
    CHECK_ERRNO(pselect(fd + 1, &readers, NULL, NULL, &long_time, &empty), EINTR, "with an empty mask: EINTR");
    CHECK_EQ(t_signals, 1, "and the handler ran");
    MUST(peer_tell(control, "SEND 1"));
    FD_ZERO(&readers);
    FD_SET(fd, &readers);
    CHECK_EQ(pselect(fd + 1, &readers, NULL, NULL, &long_time, NULL), 1, "readable: 1");
    CHECK(FD_ISSET(fd, &readers), "its bit is set");
    return t_end();
}
