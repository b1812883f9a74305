/* SO_LINGER with a time: the last close waits for the peer, shutdown and other closes do not. */
#include "t.h"

/* Fills the connection until the peer, who does not read, takes no more. */
static void fill(int fd)
{
    static char block[65536];
    int idle = 0;
    MUST(fcntl(fd, F_SETFL, O_NONBLOCK));
    while (idle < 20) {
        if (write(fd, block, sizeof block) > 0) {
            idle = 0;
            continue;
        }
        idle++;
        t_sleep_ms(5);
    }
}

/* test REF T-10 */
int main(void)
{
    int control;

    t_begin();
    int fd = peer_pair(&control);
    MUST(t_set_linger(fd, 1, 1));
    fill(fd);
    int copy = MUST(dup(fd));
    long long start = t_now_ms();
    CHECK_EQ(shutdown(fd, SHUT_WR), 0, "shutdown with the peer's window closed");
    CHECK(t_now_ms() - start < 500, "does not wait");
    start = t_now_ms();
    CHECK_EQ(close(copy), 0, "close of one of two descriptors");
    CHECK(t_now_ms() - start < 500, "does not wait");
    start = t_now_ms();
    CHECK_EQ(close(fd), 0, "the last close, O_NONBLOCK or not");
    long long took = t_now_ms() - start;
    CHECK(took >= 900 && took < 3000, "waits for a second");
    close(control);

    fd = peer_pair(&control);
    MUST(t_set_linger(fd, 1, 8));
    fill(fd);
    t_catch(SIGUSR1, SA_RESTART);
    timer_t timer = t_signal_every(SIGUSR1, 100);
    start = t_now_ms();
    CHECK_EQ(close(fd), 0, "a close that a signal interrupts: 0");
    CHECK(t_now_ms() - start < 4000, "before its time");
    timer_delete(timer);
    close(control);

    fd = peer_pair(&control);
    MUST(t_set_linger(fd, 1, 8));
    start = t_now_ms();
    CHECK_EQ(close(fd), 0, "close with nothing to wait for but the FIN");
    CHECK(t_now_ms() - start < 1000, "is quick");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the peer sees the FIN");
    return t_end();
}
