/* connect() to hosts that cannot be reached: nobody answers ARP, or a router says so. */
#include "t.h"

static void refused_by_router(const char *ip, int error, const char *name)
{
    int fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, ip, 80), error, "%s: %s", name, strerrorname_np(error));
    /* ERR stays: Linux leaves the ICMP message on the error queue (tcp_v4_err, SYN-SENT). */
    CHECK_MASK(fd, MASK_OUT | POLLHUP | POLLERR, "%s: poll OUT HUP ERR afterwards", name);
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "%s: the same socket connects elsewhere", name);
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, ip, 80), EINPROGRESS, "%s: non-blocking EINPROGRESS", name);
    CHECK_MASK(fd, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "%s: poll IN OUT RDHUP HUP ERR", name);
    CHECK_EQ(t_so_error(fd), error, "%s: SO_ERROR is %s", name, strerrorname_np(error));
    close(fd);
}

/* test REF C-05 */
/* test REF N-04 */
int main(void)
{
    t_begin();
    refused_by_router(T_UNREACH, EHOSTUNREACH, "ICMP host unreachable");
    refused_by_router(T_PROHIBIT, EHOSTUNREACH, "ICMP administratively prohibited");

    int fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, T_NET_DEAD, 80), EHOSTUNREACH, "no ARP answer, blocking: EHOSTUNREACH");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "the same socket connects elsewhere");
    close(fd);

    int dead = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(dead, T_NET_DEAD, 80), EINPROGRESS, "no ARP answer, non-blocking: EINPROGRESS");
    CHECK_MASK(dead, MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP | POLLERR, "no ARP answer: poll IN OUT RDHUP HUP ERR");
    CHECK_EQ(t_so_error(dead), EHOSTUNREACH, "no ARP answer: SO_ERROR is EHOSTUNREACH");
    close(dead);
    return t_end();
}
