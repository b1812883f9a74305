/* fcntl: status flags belong to the connection, descriptor flags to the number. */
#include "t.h"

/* test REF S-01 */
int main(void)
{
    char byte;

    t_begin();
    int fd = MUST(peer_connect(PORT_ECHO)), copy = MUST(dup(fd));
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR, "F_GETFL");
    CHECK_EQ(fcntl(fd, F_SETFL, O_NONBLOCK), 0, "F_SETFL O_NONBLOCK");
    CHECK_EQ(fcntl(copy, F_GETFL), O_RDWR | O_NONBLOCK, "the copy shares it");
    CHECK_ERRNO(read(copy, &byte, 1), EAGAIN, "and does not wait");
    CHECK_EQ(fcntl(copy, F_SETFL, O_RDONLY), 0, "F_SETFL on the copy");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR, "clears it for both; the access mode stays");
    CHECK_EQ(fcntl(fd, F_SETFL, O_APPEND | O_CREAT | O_NONBLOCK), 0, "other flags");
    CHECK_EQ(fcntl(fd, F_GETFL) & ~O_APPEND, O_RDWR | O_NONBLOCK, "O_CREAT is ignored");
    MUST(fcntl(fd, F_SETFL, 0));

    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC, "F_GETFD: CLOEXEC from socket()");
    CHECK_EQ(fcntl(copy, F_GETFD), 0, "the copy has it not");
    CHECK_EQ(fcntl(copy, F_SETFD, FD_CLOEXEC), 0, "F_SETFD");
    CHECK_EQ(fcntl(fd, F_SETFD, 0), 0, "each for itself");
    CHECK_EQ(fcntl(copy, F_GETFD), FD_CLOEXEC, "the copy has it");
    CHECK_EQ(fcntl(fd, F_GETFD), 0, "the original not");

    int high = fcntl(fd, F_DUPFD, 50);
    CHECK_EQ(high, 50, "F_DUPFD from 50");
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 51, "the next free one");
    CHECK_EQ(fcntl(high, F_GETFD), 0, "without CLOEXEC");
    int closing = fcntl(fd, F_DUPFD_CLOEXEC, 60);
    CHECK_EQ(closing, 60, "F_DUPFD_CLOEXEC from 60");
    CHECK_EQ(fcntl(closing, F_GETFD), FD_CLOEXEC, "with CLOEXEC");
    CHECK_EQ(write(closing, "z", 1), 1, "a copy writes");
    CHECK_EQ(read(high, &byte, 1), 1, "another reads");
    CHECK_ERRNO(fcntl(fd, F_DUPFD, -1), EINVAL, "F_DUPFD from -1: EINVAL");
    CHECK_ERRNO(fcntl(fd, 9999), EINVAL, "an unknown command: EINVAL");
    CHECK_ERRNO(fcntl(999, F_GETFL), EBADF, "no descriptor: EBADF");
    return t_end();
}
