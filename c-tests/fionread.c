/* ioctl: FIONREAD, SIOCOUTQ, FIONBIO, SIOCATMARK. */
#include <linux/sockios.h>
#include <sys/ioctl.h>

#include "t.h"

/* test REF T-11 */
int main(void)
{
    char data[16];
    int value, control;

    t_begin();
    int fd = peer_pair(&control);
    CHECK_EQ(ioctl(fd, FIONREAD, &value), 0, "FIONREAD");
    CHECK_EQ(value, 0, "nothing there");
    MUST(peer_ask(control, "SEND 11"));
    MUST(recv(fd, data, 11, MSG_PEEK | MSG_WAITALL));
    CHECK_EQ(ioctl(fd, FIONREAD, &value), 0, "FIONREAD");
    CHECK_EQ(value, 11, "eleven bytes");
    MUST(read(fd, data, 4));
    MUST(ioctl(fd, FIONREAD, &value));
    CHECK_EQ(value, 7, "seven are left");
    CHECK_EQ(ioctl(fd, SIOCATMARK, &value), 0, "SIOCATMARK");
    CHECK_EQ(value, 0, "not at the mark");
    MUST(write(fd, "abc", 3));
    MUST(peer_ask(control, "RECV 0"));
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    do
        MUST(ioctl(fd, SIOCOUTQ, &value));
    while (value != 0 && t_now_ms() < deadline);
    CHECK_EQ(value, 0, "SIOCOUTQ falls to 0 when the peer has acknowledged");
    MUST(read(fd, data, 7));
    value = 1;
    CHECK_EQ(ioctl(fd, FIONBIO, &value), 0, "FIONBIO on");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK, "is O_NONBLOCK");
    CHECK_ERRNO(read(fd, data, 1), EAGAIN, "read EAGAIN");
    value = 0;
    CHECK_EQ(ioctl(fd, FIONBIO, &value), 0, "FIONBIO off");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR, "O_NONBLOCK is gone");
    CHECK_ERRNO(ioctl(fd, 0x7777, &value), ENOTTY, "an unknown request: ENOTTY");
    CHECK_ERRNO(ioctl(fd, FIONREAD, t_nowhere), EFAULT, "FIONREAD to nowhere: EFAULT");
    close(fd);

    int port, listener = t_listener(0, &port);
    CHECK_ERRNO(ioctl(listener, FIONREAD, &value), EINVAL, "FIONREAD on a listener: EINVAL");
    close(listener);

    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    MUST(write(fd, "datagram", 8));
    MUST(write(fd, "next", 4));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "a datagram comes");
    CHECK_EQ(ioctl(fd, FIONREAD, &value), 0, "FIONREAD on datagrams");
    CHECK_EQ(value, 8, "the size of the first");
    return t_end();
}
