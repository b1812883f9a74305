/* ppoll(): the signal mask holds during the wait only. */
#include "t.h"

/* test REF C-04 */
int main(void)
{
    int control;
    sigset_t blocked, empty, now;

    t_begin();
    int fd = peer_pair(&control);
    struct pollfd entry = {fd, POLLIN, 0};
    struct timespec none = {0, 0}, short_time = {0, 100000000}, long_time = {5, 0};
    t_catch(SIGUSR1, 0);
    sigemptyset(&empty);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);

    CHECK_EQ(ppoll(&entry, 1, &none, NULL), 0, "nothing there: 0");
    raise(SIGUSR1);
    CHECK_EQ(ppoll(&entry, 1, &short_time, NULL), 0, "a blocked pending signal does not interrupt");
    CHECK_EQ(t_signals, 0, "nor run its handler");
    CHECK_ERRNO(ppoll(&entry, 1, &long_time, &empty), EINTR, "with an empty mask it interrupts at once: EINTR");
    CHECK_EQ(t_signals, 1, "and the handler ran");
    sigprocmask(SIG_SETMASK, NULL, &now);
    CHECK_EQ(sigismember(&now, SIGUSR1), 1, "the old mask is back");

    timer_t timer = t_signal_every(SIGUSR1, 50);
    CHECK_ERRNO(ppoll(&entry, 1, &long_time, &empty), EINTR, "a signal during the wait: EINTR");
    timer_delete(timer);
    CHECK_EQ(long_time.tv_sec, 5, "the time given is not changed");

    MUST(peer_ask(control, "SEND 1"));
    CHECK_EQ(ppoll(&entry, 1, &long_time, &blocked), 1, "readable: 1");
    CHECK_EQ(entry.revents, POLLIN, "IN");
    CHECK_EQ(ppoll(&entry, 1, NULL, NULL), 1, "no time limit");
    struct timespec wrong = {0, 1000000000};
    CHECK_ERRNO(ppoll(&entry, 1, &wrong, NULL), EINVAL, "a time that is none: EINVAL");
    return t_end();
}
