/* SO_RCVTIMEO and SO_SNDTIMEO, EINTR and restart of a blocked read. */
#include "t.h"

/* test REF C-04 */
/* test REF D-01 */
int main(void)
{
    char byte;
    int control;

    t_begin();
    int fd = peer_pair(&control);
    CHECK_EQ(t_set_timeout(fd, SO_RCVTIMEO, 120), 0, "SO_RCVTIMEO");
    struct timeval time = {0, 0};
    socklen_t length = sizeof time;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, &length), 0, "reads back");
    CHECK(time.tv_sec == 0 && time.tv_usec >= 120000 && time.tv_usec < 140000, "rounded to the clock tick at most");
    long long start = t_now_ms();
    CHECK_ERRNO(read(fd, &byte, 1), EAGAIN, "read: EAGAIN");
    CHECK(t_now_ms() - start >= 115, "after the time");
    CHECK_ERRNO(recv(fd, &byte, 1, MSG_PEEK), EAGAIN, "peek: EAGAIN");
    MUST(peer_tell(control, "SEND 1"));
    MUST(t_set_timeout(fd, SO_RCVTIMEO, T_PATIENCE_MS));
    CHECK_EQ(read(fd, &byte, 1), 1, "what comes in time is read");
    MUST(peer_number(control));
    t_catch(SIGUSR1, SA_RESTART);
    timer_t timer = t_signal_every(SIGUSR1, 40);
    CHECK_ERRNO(read(fd, &byte, 1), EINTR, "SA_RESTART with SO_RCVTIMEO: EINTR");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 0));
    t_catch(SIGUSR1, 0);
    CHECK_ERRNO(read(fd, &byte, 1), EINTR, "without SA_RESTART: EINTR");
    timer_delete(timer);

    /* Restarted until the peer's byte comes, which a child asks for. */
    t_catch(SIGUSR1, SA_RESTART);
    t_signals = 0;
    timer = t_signal_every(SIGUSR1, 30);
    pid_t child = MUST(fork());
    if (child == 0) {
        t_sleep_ms(200);
        _exit(peer_ask(control, "SEND 1") == 1 ? 0 : 1);
    }
    CHECK_EQ(read(fd, &byte, 1), 1, "SA_RESTART: the read goes on until data comes");
    timer_delete(timer);
    CHECK(t_signals > 0, "though the handler ran");
    waitpid(child, NULL, 0);
    time = (struct timeval){0, 1000000};
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time), EDOM, "a million microseconds: EDOM");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &time, 4), EINVAL, "a short value: EINVAL");
    close(fd);

    fd = MUST(t_udp(0));
    MUST(t_bind(fd, T_LOCAL, 0));
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 100));
    CHECK_ERRNO(recv(fd, &byte, 1, 0), EAGAIN, "datagram: EAGAIN after the time");
    return t_end();
}
