/* 100 sockets have nothing in common: each has an inode, flags and an owner of its own, and copies share them. */
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "t.h"

#define COUNT 100

static ino_t inode_of(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status));
    return status.st_ino;
}

static int flags_of(int fd)
{
    return fcntl(fd, F_GETFL);
}

/* test REF S-01 */
int main(void)
{
    static int fds[COUNT];
    static ino_t inodes[COUNT];
    struct stat status;
    char byte;

    t_begin();
    for (int i = 0; i < COUNT; i++) {
        fds[i] = MUST(socket(AF_INET, SOCK_STREAM | (i % 2 == 0 ? SOCK_CLOEXEC : SOCK_NONBLOCK), 0));
        inodes[i] = inode_of(fds[i]);
    }
    int alike = 0, wrong = 0;
    for (int i = 0; i < COUNT; i++) {
        for (int j = 0; j < i; j++)
            alike += inodes[i] == inodes[j];
        wrong += flags_of(fds[i]) != (O_RDWR | (i % 2 == 0 ? 0 : O_NONBLOCK));
        wrong += fcntl(fds[i], F_GETFD) != (i % 2 == 0 ? FD_CLOEXEC : 0);
    }
    CHECK_EQ(alike, 0, "every socket has an inode of its own");
    CHECK_EQ(wrong, 0, "and the flags that it was made with");

    int one = fds[COUNT - 2], other = fds[COUNT - 4], copy = MUST(dup(one)), on = 1, off = 0;
    CHECK(inode_of(copy) == inode_of(one), "a copy has the same inode");
    MUST(fstat(one, &status));
    CHECK(S_ISSOCK(status.st_mode), "of a socket");
    CHECK_EQ(fcntl(copy, F_SETFL, O_NONBLOCK), 0, "O_NONBLOCK by the copy");
    CHECK_EQ(flags_of(one), O_RDWR | O_NONBLOCK, "is there for both");
    CHECK_EQ(flags_of(other), O_RDWR, "and not for another socket");
    CHECK_EQ(ioctl(one, FIONBIO, &off), 0, "FIONBIO off");
    CHECK_EQ(flags_of(copy), O_RDWR, "is there for both");
    CHECK_EQ(ioctl(one, FIONBIO, &on), 0, "FIONBIO on");
    CHECK_EQ(flags_of(copy), O_RDWR | O_NONBLOCK, "again");
    MUST(fcntl(one, F_SETFL, 0));

    CHECK_EQ(fcntl(one, F_SETOWN, getpid()), 0, "F_SETOWN");
    CHECK_EQ(fcntl(copy, F_GETOWN), getpid(), "the copy has the owner too");
    CHECK_EQ(fcntl(other, F_GETOWN), 0, "another socket has none");
    CHECK_EQ(fcntl(one, F_SETFL, O_ASYNC | O_NONBLOCK), 0, "O_ASYNC");
    CHECK_EQ(flags_of(copy), O_RDWR | O_ASYNC | O_NONBLOCK, "the copy shares it");
    CHECK_EQ(flags_of(other), O_RDWR, "another socket does not");
    CHECK_EQ(fcntl(one, F_SETFL, 0), 0, "and off again");
    CHECK(inode_of(copy) == inode_of(one), "the copy's inode is still the same");

    /* What stands behind the number changes while a set watches it. */
    int watched = fds[COUNT - 6], set = MUST(epoll_create1(0));
    struct epoll_event event = {.events = EPOLLIN, .data.fd = watched}, got;
    MUST(t_connect(watched, T_PEER, PORT_ECHO));
    MUST(epoll_ctl(set, EPOLL_CTL_ADD, watched, &event));
    CHECK_EQ(fcntl(watched, F_SETOWN, getpid()), 0, "F_SETOWN on a connection that is watched");
    CHECK_EQ(write(watched, "w", 1), 1, "it writes");
    CHECK_EQ(epoll_wait(set, &got, 1, T_PATIENCE_MS), 1, "the set reports it");
    CHECK_EQ(got.data.fd, watched, "with its data");
    CHECK_EQ(read(watched, &byte, 1), 1, "it reads");

    CHECK_EQ(close(one), 0, "close");
    CHECK_ERRNO(flags_of(one), EBADF, "the number is free");
    CHECK_EQ(flags_of(copy), O_RDWR, "the copy lives");
    CHECK_EQ(socket(AF_INET, SOCK_STREAM, 0), one, "the next socket gets the number");
    CHECK_EQ(fcntl(one, F_GETOWN), 0, "and no owner");
    return t_end();
}
