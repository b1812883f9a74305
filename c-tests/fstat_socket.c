/* What a socket answers as a file: fstat, isatty, fsync, and the calls that make no sense on it. */
#include <sys/stat.h>

#include "t.h"

/* test REF S-01 */
static void check(int fd, const char *name)
{
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0, "%s: fstat", name);
    CHECK(S_ISSOCK(status.st_mode), "%s: is a socket", name);
    CHECK_EQ(status.st_size, 0, "%s: has no size", name);
    CHECK_EQ(isatty(fd), 0, "%s: is no terminal", name);
    CHECK_EQ(errno, ENOTTY, "%s: ENOTTY", name);
    CHECK_ERRNO(fsync(fd), EINVAL, "%s: fsync EINVAL", name);
    CHECK_ERRNO(lseek(fd, 0, SEEK_CUR), ESPIPE, "%s: lseek ESPIPE", name);
    CHECK_ERRNO(ftruncate(fd, 0), EINVAL, "%s: ftruncate EINVAL", name);
}

int main(void)
{
    int port;

    t_begin();
    int fd = MUST(t_tcp(0));
    check(fd, "fresh");
    MUST(t_connect(fd, T_PEER, PORT_ECHO));
    check(fd, "connected");
    check(t_listener(0, &port), "listener");
    check(MUST(t_udp(0)), "datagram");
    struct stat first, second;
    int copy = MUST(dup(fd)), other = MUST(t_tcp(0));
    MUST(fstat(fd, &first));
    MUST(fstat(copy, &second));
    CHECK(first.st_ino == second.st_ino && first.st_dev == second.st_dev, "a copy has the same inode");
    MUST(fstat(other, &second));
    CHECK(first.st_ino != second.st_ino, "another socket has another");
    return t_end();
}
