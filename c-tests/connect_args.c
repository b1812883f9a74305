/* connect(): the order in which wrong arguments are found. */
#include "t.h"

/* test REF C-01 */
int main(void)
{
    int pipes[2];
    struct sockaddr_in peer = t_address(T_PEER, PORT_ECHO);
    struct sockaddr *address = (struct sockaddr *)&peer;
    struct sockaddr_storage roomy = {0};
    void *nowhere = (void *)1;

    t_begin();
    int fd = MUST(t_tcp(0));
    MUST(pipe(pipes));

    CHECK_ERRNO(connect(999, address, sizeof peer), EBADF, "no such descriptor");
    CHECK_ERRNO(connect(-1, address, sizeof peer), EBADF, "descriptor -1");
    CHECK_ERRNO(connect(999, nowhere, (socklen_t)-1), EBADF, "the descriptor is looked at first");
    int path = MUST(open("/", O_PATH));
    CHECK_ERRNO(connect(path, address, sizeof peer), EBADF, "an O_PATH descriptor");
    CHECK_ERRNO(connect(fd, address, (socklen_t)-1), EINVAL, "negative length");
    CHECK_ERRNO(connect(fd, nowhere, 129), EINVAL, "the length is looked at before the memory");
    CHECK_ERRNO(connect(fd, nowhere, sizeof peer), EFAULT, "unreadable address");
    CHECK_ERRNO(connect(pipes[0], nowhere, sizeof peer), EFAULT, "the memory is looked at before the kind of descriptor");
    CHECK_ERRNO(connect(pipes[0], address, sizeof peer), ENOTSOCK, "a pipe");
    CHECK_ERRNO(connect(pipes[0], address, 0), ENOTSOCK, "a pipe with an empty address");

    CHECK_ERRNO(connect(fd, nowhere, 0), EINVAL, "length 0 does not touch the memory");
    CHECK_ERRNO(connect(fd, address, 0), EINVAL, "length 0");
    CHECK_ERRNO(connect(fd, address, 1), EINVAL, "length 1");
    CHECK_ERRNO(connect(fd, address, 2), EINVAL, "length 2, not AF_UNSPEC");
    CHECK_ERRNO(connect(fd, address, 15), EINVAL, "one byte short");
    peer.sin_family = AF_INET6;
    CHECK_ERRNO(connect(fd, address, sizeof peer), EAFNOSUPPORT, "IPv6 family on an IPv4 socket");
    CHECK_ERRNO(connect(fd, address, 15), EINVAL, "the length counts before the family");
    peer.sin_family = AF_UNIX;
    CHECK_ERRNO(connect(fd, address, sizeof peer), EAFNOSUPPORT, "AF_UNIX family");
    peer.sin_family = AF_UNSPEC;
    CHECK_EQ(connect(fd, address, 2), 0, "two bytes are enough for AF_UNSPEC");
    CHECK_ERRNO(connect(fd, address, 1), EINVAL, "one is not");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "nothing of this changed the socket");
    CHECK_EQ(t_local_port(fd), 0, "nor gave it a port");

    peer.sin_family = AF_INET;
    memcpy(&roomy, &peer, sizeof peer);
    CHECK_EQ(connect(fd, (struct sockaddr *)&roomy, 128), 0, "128 bytes are accepted");
    CHECK_ERRNO(connect(fd, address, 15), EISCONN, "connected: EISCONN comes before the length");
    CHECK_ERRNO(connect(fd, address, sizeof peer), EISCONN, "connected: and for a good address");
    return t_end();
}
