/* SO_BINDTODEVICE and SO_BINDTOIFINDEX: what a socket that is bound to an interface sends and hears. */
#include <net/if.h>

#include "t.h"

/* asm-generic/socket.h, where libc is older. */
#define T_BINDTOIFINDEX 62

enum { NOBODY = 0x7ffffff0 };

static ssize_t send_to_peer(int fd)
{
    struct sockaddr_in to = t_address(T_PEER, PORT_UDP_ECHO);
    return sendto(fd, "abc", 3, 0, (struct sockaddr *)&to, sizeof to);
}

/* The name of the interface that leads to the peer: the laboratory has no other beside the loopback. */
static const char *device(void)
{
    static char name[IFNAMSIZ];
    for (unsigned number = 2; name[0] == 0 && number < 1000; number++)
        if (if_indextoname(number, name) == NULL)
            name[0] = 0;
    return name;
}

static void datagrams(void)
{
    char data[16];
    int fd = MUST(t_udp(0));
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device(), (socklen_t)strlen(device())));
    CHECK_EQ(t_option(fd, SOL_SOCKET, T_BINDTOIFINDEX), (int)if_nametoindex(device()), "its number");
    CHECK_EQ(send_to_peer(fd), 3, "by our device: sent");
    CHECK_EQ(read(fd, data, sizeof data), 3, "and answered");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    CHECK_EQ(send_to_peer(fd), 3, "by lo: taken");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 200));
    CHECK_ERRNO(read(fd, data, sizeof data), EAGAIN, "and lost");
    MUST(t_set_option(fd, SOL_SOCKET, T_BINDTOIFINDEX, NOBODY));
    CHECK_ERRNO(send_to_peer(fd), ENODEV, "by a device that is not there: ENODEV");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_UDP_ECHO), ENODEV, "connect too");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "nobody", 6), ENODEV, "by a name that is not there: ENODEV");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
    CHECK_EQ(send_to_peer(fd), 3, "by any again: sent");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, T_PATIENCE_MS));
    CHECK_EQ(read(fd, data, sizeof data), 3, "and answered");
    close(fd);

    /* The answer comes by the other interface, and is nobody's. */
    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    CHECK_EQ(write(fd, "abc", 3), 3, "a connected socket");
    CHECK_EQ(t_wait(fd, POLLIN), POLLIN, "has its answer");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    CHECK_EQ(read(fd, data, sizeof data), 3, "what has come stays");
    CHECK_EQ(write(fd, "abc", 3), 3, "the next is taken");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 200));
    CHECK_ERRNO(read(fd, data, sizeof data), EAGAIN, "and lost");
    close(fd);
}

static void streams(void)
{
    char data[16];
    int fd = MUST(t_tcp(0));
    MUST(t_set_option(fd, SOL_SOCKET, T_BINDTOIFINDEX, NOBODY));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), ENODEV, "connect by a device that is not there: ENODEV");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device(), (socklen_t)strlen(device())));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "connect by our device");
    CHECK_EQ(write(fd, "abc", 3), 3, "write");
    CHECK_EQ(t_read_all(fd, data, 3), 3, "read");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "lo", 2));
    CHECK_EQ(write(fd, "abc", 3), 3, "by lo: taken");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 200));
    CHECK_ERRNO(read(fd, data, sizeof data), EAGAIN, "and lost");
    MUST(setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, "", 0));
    MUST(t_set_timeout(fd, SO_RCVTIMEO, T_PATIENCE_MS));
    CHECK_EQ(t_read_all(fd, data, 3), 3, "by any again: sent once more, and answered");
    close(fd);
}

/* test REF D-06 */
int main(void)
{
    t_begin();
    datagrams();
    streams();
    return t_end();
}
