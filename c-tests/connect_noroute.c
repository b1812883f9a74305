/* Addresses to which no route leads. run.sh gives the programs named *_noroute no gateway. */
#include "t.h"

/* test REF C-07 */
/* test REF N-02 */
int main(void)
{
    t_begin();
    int fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, T_NOROUTE, 80), ENETUNREACH, "TCP, blocking: ENETUNREACH");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "poll OUT HUP");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    CHECK_EQ(t_local_port(fd), 0, "no port was taken");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "the same socket reaches the link");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_NOROUTE, 80), ENETUNREACH, "TCP, non-blocking: ENETUNREACH at once");
    close(fd);

    fd = MUST(t_tcp(0));
    MUST(t_bind(fd, T_LOCAL, 0));
    CHECK_ERRNO(t_connect(fd, T_NOROUTE, 80), ENETUNREACH, "TCP, bound: ENETUNREACH");
    close(fd);

    fd = MUST(t_udp(0));
    CHECK_ERRNO(t_connect(fd, T_NOROUTE, 80), ENETUNREACH, "UDP connect: ENETUNREACH");
    struct sockaddr_in nowhere = t_address(T_NOROUTE, 80);
    CHECK_ERRNO(sendto(fd, "a", 1, 0, (struct sockaddr *)&nowhere, sizeof nowhere), ENETUNREACH, "UDP sendto: ENETUNREACH");
    close(fd);
    return t_end();
}
