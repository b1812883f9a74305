/* connect() under SO_SNDTIMEO: EINPROGRESS after the time, EALREADY for who joins, and the attempt goes on. */
#include "t.h"

/* test REF C-04 */
int main(void)
{
    t_begin();
    int fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 200));
    long long start = t_now_ms();
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINPROGRESS, "no answer within SO_SNDTIMEO: EINPROGRESS");
    CHECK(t_now_ms() - start >= 190, "not before the time was over");
    CHECK_EQ(t_mask(fd), 0, "the attempt goes on");
    CHECK_EQ(t_tcp_state(fd), TCP_SYN_SENT, "in SYN-SENT");
    start = t_now_ms();
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EALREADY, "who joins and times out gets EALREADY");
    CHECK(t_now_ms() - start >= 190, "after waiting as long again");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EALREADY, "non-blocking: EALREADY");
    close(fd);

    fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 5000));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "an answer within SO_SNDTIMEO: 0");
    close(fd);

    fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 5000));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNREFUSED, "a refusal within it: ECONNREFUSED");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "started without blocking");
    fcntl(fd, F_SETFL, 0);
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "a blocking caller joins and gets the success");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EISCONN, "then EISCONN");
    close(fd);
    return t_end();
}
