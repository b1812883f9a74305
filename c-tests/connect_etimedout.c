/* connect() that is never answered, with the number of SYNs and the time made small. */
#include "t.h"

/* test REF C-05 */
/* test REF C-14 */
int main(void)
{
    t_begin();
    int patient = MUST(t_tcp(SOCK_NONBLOCK));
    MUST(t_set_option(patient, IPPROTO_TCP, TCP_USER_TIMEOUT, 1500));
    CHECK_ERRNO(t_connect(patient, T_BLACKHOLE, 81), EINPROGRESS, "TCP_USER_TIMEOUT: EINPROGRESS");

    int fd = MUST(t_tcp(0));
    MUST(t_set_option(fd, IPPROTO_TCP, TCP_SYNCNT, 1));
    long long start = t_now_ms();
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), ETIMEDOUT, "TCP_SYNCNT 1: ETIMEDOUT");
    CHECK(t_now_ms() - start >= 2900, "not before two SYNs had the time that they would have in doubling steps");
    CHECK(t_now_ms() - start < 6500, "and not much later");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "poll OUT HUP afterwards");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "the same socket connects to a host that answers");
    close(fd);

    CHECK_MASK(patient, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "TCP_USER_TIMEOUT: poll IN OUT RDHUP HUP ERR");
    CHECK_EQ(t_so_error(patient), ETIMEDOUT, "TCP_USER_TIMEOUT: ETIMEDOUT");
    close(patient);
    return t_end();
}
