/* socket(): SOCK_CLOEXEC and SOCK_NONBLOCK, and what a fresh socket says of itself. */
#include "t.h"

/* test REF S-01 */
static void check(int type, const char *name)
{
    static const int flags[] = {0, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_CLOEXEC | SOCK_NONBLOCK};
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        int fd = MUST(socket(AF_INET, type | flags[i], 0));
        const char *cloexec = flags[i] & SOCK_CLOEXEC ? "CLOEXEC" : "no CLOEXEC";
        const char *nonblock = flags[i] & SOCK_NONBLOCK ? "NONBLOCK" : "no NONBLOCK";
        CHECK_EQ(fcntl(fd, F_GETFD), flags[i] & SOCK_CLOEXEC ? FD_CLOEXEC : 0, "%s, %s: descriptor flags", name, cloexec);
        CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | (flags[i] & SOCK_NONBLOCK ? O_NONBLOCK : 0), "%s, %s: status flags", name,
                 nonblock);
        CHECK_EQ(t_option(fd, SOL_SOCKET, SO_TYPE), type, "%s: SO_TYPE is the type without flags", name);
        close(fd);
    }
}

int main(void)
{
    t_begin();
    check(SOCK_STREAM, "stream");
    check(SOCK_DGRAM, "datagram");

    int fd = MUST(t_tcp(0));
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "a fresh stream socket polls OUT HUP");
    CHECK_ERRNO(read(fd, &fd, 1), ENOTCONN, "read on it: ENOTCONN");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write on it: EPIPE");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR is 0");
    CHECK_EQ(t_tcp_state(fd), TCP_CLOSE, "TCP_INFO says CLOSE");
    CHECK_ERRNO(shutdown(fd, SHUT_RDWR), ENOTCONN, "shutdown: ENOTCONN");
    close(fd);

    fd = MUST(t_udp(0));
    CHECK_MASK(fd, MASK_OUT_UDP, "a fresh datagram socket polls OUT");
    CHECK_ERRNO(write(fd, "a", 1), EDESTADDRREQ, "write on it: EDESTADDRREQ");
    CHECK_ERRNO(recv(fd, &fd, 1, MSG_DONTWAIT), EAGAIN, "non-blocking receive: EAGAIN");
    return t_end();
}
