/* dup, dup2, dup3: one connection under several numbers. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    char data[8];
    int control, other_control;

    t_begin();
    int fd = peer_pair(&control);
    int copy = dup(fd);
    CHECK(copy >= 0 && copy != fd, "dup gives another number");
    CHECK_EQ(fcntl(copy, F_GETFD), 0, "without CLOEXEC");
    CHECK_EQ(write(copy, "ab", 2), 2, "write through the copy");
    CHECK_EQ(close(fd), 0, "close the original");
    MUST(peer_tell(control, "SEND 3"));
    CHECK_EQ(t_read_all(copy, data, 3), 3, "the copy still reads");
    MUST(peer_number(control));
    CHECK_EQ(write(copy, "c", 1), 1, "and writes");
    CHECK_ERRNO(read(fd, data, 1), EBADF, "the original is gone");

    CHECK_EQ(dup2(copy, copy), copy, "dup2 onto itself");
    CHECK_ERRNO(dup3(copy, copy, 0), EINVAL, "dup3 onto itself: EINVAL");
    CHECK_ERRNO(dup3(copy, 100, O_NONBLOCK), EINVAL, "dup3 with another flag: EINVAL");
    CHECK_ERRNO(dup2(999, 100), EBADF, "dup2 of none: EBADF");
    CHECK_ERRNO(dup2(copy, -1), EBADF, "dup2 onto -1: EBADF");
    CHECK_ERRNO(dup(999), EBADF, "dup of none: EBADF");
    CHECK_EQ(dup2(copy, 100), 100, "dup2 to a chosen number");
    CHECK_EQ(fcntl(100, F_GETFD), 0, "without CLOEXEC");
    CHECK_EQ(dup3(copy, 101, O_CLOEXEC), 101, "dup3 with O_CLOEXEC");
    CHECK_EQ(fcntl(101, F_GETFD), FD_CLOEXEC, "has it");
    CHECK_EQ(fcntl(copy, F_GETFD), 0, "the source has not");
    CHECK_EQ(t_local_port(101), t_local_port(100), "all show the same name");

    /* dup2 over a connected socket closes that one. */
    int victim = peer_pair(&other_control);
    CHECK_EQ(dup2(copy, victim), victim, "dup2 over a connection");
    CHECK_EQ(peer_ask(other_control, "WAITEND"), 0, "its peer gets a FIN");
    CHECK_EQ(t_local_port(victim), t_local_port(copy), "the number is the other connection now");

    /* And a pipe over a connection, a connection over a pipe. */
    int pipes[2];
    MUST(pipe(pipes));
    CHECK_EQ(dup2(pipes[0], victim), victim, "a pipe over a copy");
    MUST(write(pipes[1], "p", 1));
    CHECK_EQ(read(victim, data, 1), 1, "reads the pipe");
    CHECK_EQ(data[0], 'p', "its byte");
    CHECK_EQ(dup2(copy, pipes[0]), pipes[0], "a copy over a pipe");
    CHECK_EQ(write(pipes[0], "d", 1), 1, "writes to the connection");

    close(victim);
    close(copy);
    close(pipes[0]);
    close(100);
    MUST(peer_tell(control, "DRAIN"));
    CHECK_EQ(peer_number(control), 4, "the peer got four bytes and the connection lives");
    CHECK_EQ(write(101, "e", 1), 1, "the last copy writes");
    close(101);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "the last close sends the FIN");
    return t_end();
}
