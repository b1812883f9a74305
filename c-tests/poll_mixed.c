/* poll() over a connection, a pipe, a timer and entries that are none. */
#include <sys/timerfd.h>

#include "t.h"

/* test REF C-06 */
int main(void)
{
    char byte;
    int control, pipes[2];

    t_begin();
    int fd = peer_pair(&control), timer = MUST(timerfd_create(CLOCK_MONOTONIC, 0));
    MUST(pipe(pipes));
    struct pollfd set[5] = {{fd, POLLIN, 0}, {pipes[0], POLLIN, 0}, {timer, POLLIN, 0}, {-1, POLLIN, 0x77}, {fd, POLLOUT, 0}};
    CHECK_EQ(poll(set, 4, 0), 0, "nothing ready: 0");
    CHECK_EQ(set[3].revents, 0, "a negative entry is skipped and cleared");
    CHECK_EQ(poll(set, 5, -1), 1, "the same descriptor twice, once for OUT");
    CHECK(set[4].revents == POLLOUT && set[0].revents == 0, "each entry answers what it asked");

    struct itimerspec soon = {{0, 0}, {0, 80000000}};
    MUST(timerfd_settime(timer, 0, &soon, NULL));
    CHECK_EQ(poll(set, 4, T_PATIENCE_MS), 1, "sleeps until the timer");
    CHECK_EQ(set[2].revents, POLLIN, "which is readable");
    uint64_t ticks;
    MUST(read(timer, &ticks, sizeof ticks));

    MUST(peer_tell(control, "SEND 1"));
    CHECK_EQ(poll(set, 4, T_PATIENCE_MS), 1, "sleeps until the peer's byte");
    CHECK_EQ(set[0].revents, POLLIN, "the connection is readable");
    MUST(peer_number(control));
    MUST(write(pipes[1], "p", 1));
    CHECK_EQ(poll(set, 4, T_PATIENCE_MS), 2, "connection and pipe at once");
    CHECK(set[0].revents == POLLIN && set[1].revents == POLLIN, "both readable");
    MUST(read(fd, &byte, 1));
    MUST(read(pipes[0], &byte, 1));

    pid_t child = MUST(fork());
    if (child == 0) {
        t_sleep_ms(100);
        _exit(write(pipes[1], "c", 1) == 1 ? 0 : 1);
    }
    CHECK_EQ(poll(set, 4, T_PATIENCE_MS), 1, "sleeps until another process writes to the pipe");
    CHECK_EQ(set[1].revents, POLLIN, "the pipe is readable");
    waitpid(child, NULL, 0);
    MUST(read(pipes[0], &byte, 1));

    long long start = t_now_ms();
    CHECK_EQ(poll(set, 4, 100), 0, "the time passes: 0");
    CHECK(t_now_ms() - start >= 95, "not too early");
    t_catch(SIGUSR1, SA_RESTART);
    timer_t signals = t_signal_every(SIGUSR1, 40);
    CHECK_ERRNO(poll(set, 4, T_PATIENCE_MS), EINTR, "a signal: EINTR even under SA_RESTART");
    timer_delete(signals);
    set[4].fd = 999;
    CHECK_EQ(poll(set, 5, -1), 1, "no such descriptor counts as ready");
    CHECK_EQ(set[4].revents, POLLNVAL, "with NVAL");
    set[0].events = 0;
    MUST(peer_ask(control, "RESET"));
    CHECK_EQ(poll(set, 1, T_PATIENCE_MS), 1, "HUP and ERR come unasked");
    CHECK_EQ(set[0].revents, POLLHUP | POLLERR, "and nothing else");
    return t_end();
}
