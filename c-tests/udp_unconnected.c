/* Datagram sockets without a peer, and wrong destination addresses. */
#include "t.h"

/* test REF D-03 */
int main(void)
{
    char byte;
    struct sockaddr_in peer = t_address(T_PEER, PORT_UDP_ECHO);
    struct sockaddr *address = (struct sockaddr *)&peer;

    t_begin();
    int fd = MUST(t_udp(0));
    CHECK_ERRNO(write(fd, "a", 1), EDESTADDRREQ, "write: EDESTADDRREQ");
    CHECK_ERRNO(send(fd, "a", 1, 0), EDESTADDRREQ, "send: EDESTADDRREQ");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, address, 15), EINVAL, "short address: EINVAL");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, address, 129), EINVAL, "long address: EINVAL");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, t_nowhere, sizeof peer), EFAULT, "address nowhere: EFAULT");
    peer.sin_port = 0;
    CHECK_ERRNO(sendto(fd, "a", 1, 0, address, sizeof peer), EINVAL, "port 0: EINVAL");
    peer = t_address(T_PEER, PORT_UDP_ECHO);
    peer.sin_family = AF_INET6;
    CHECK_ERRNO(sendto(fd, "a", 1, 0, address, sizeof peer), EAFNOSUPPORT, "IPv6 family: EAFNOSUPPORT");
    peer.sin_family = AF_UNSPEC;
    CHECK_EQ(sendto(fd, "a", 1, 0, address, sizeof peer), 1, "AF_UNSPEC is taken as AF_INET");
    CHECK_EQ(recv(fd, &byte, 1, 0), 1, "and was sent");
    CHECK_ERRNO(send(fd, "a", 1, MSG_OOB), EOPNOTSUPP, "MSG_OOB: EOPNOTSUPP");
    CHECK_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN, "recv of nothing: EAGAIN");
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    CHECK_ERRNO(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN, "getpeername: ENOTCONN");
    return t_end();
}
