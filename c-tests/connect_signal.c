/* connect() interrupted by a signal, with and without SA_RESTART. */
#include "t.h"

/* test REF C-04 */
int main(void)
{
    t_begin();
    t_catch(SIGUSR1, 0);
    int fd = MUST(t_tcp(0));
    timer_t timer = t_signal_every(SIGUSR1, 50);
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINTR, "without SA_RESTART: EINTR");
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINTR, "who joins again is interrupted too");
    timer_delete(timer);
    CHECK(t_signals > 0, "the handler ran");
    CHECK_EQ(t_tcp_state(fd), TCP_SYN_SENT, "the attempt goes on");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EALREADY, "non-blocking: EALREADY");
    close(fd);

    t_catch(SIGUSR1, SA_RESTART);
    fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 2000));
    timer = t_signal_every(SIGUSR1, 50);
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINTR, "SA_RESTART with SO_SNDTIMEO: EINTR all the same");
    timer_delete(timer);
    close(fd);

    /* Restarted until the SYNs are used up. */
    fd = MUST(t_tcp(0));
    MUST(t_set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1));
    t_signals = 0;
    timer = t_signal_every(SIGUSR1, 50);
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), ETIMEDOUT, "SA_RESTART: the call goes on, ETIMEDOUT in the end");
    timer_delete(timer);
    CHECK(t_signals > 3, "though the handler ran many times");
    close(fd);

    /* What a program does after EINTR: wait for writability, then ask SO_ERROR. */
    t_catch(SIGUSR1, 0);
    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "an attempt that goes on");
    CHECK(t_wait(fd, POLLOUT) & POLLOUT, "becomes writable");
    CHECK_EQ(t_so_error(fd), 0, "and SO_ERROR 0 says connected");
    close(fd);
    return t_end();
}
