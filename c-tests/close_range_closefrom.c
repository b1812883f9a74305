/* close_range and closefrom close our sockets too. */
#include <linux/close_range.h>

#include "t.h"

/* test REF T-10 */
int main(void)
{
    int first_control, second_control;

    t_begin();
    int first = peer_pair(&first_control), second = peer_pair(&second_control);
    MUST(dup2(first, 200));
    MUST(dup2(second, 201));
    close(first);
    close(second);
    CHECK_EQ(close_range(200, 200, 0), 0, "close_range of one number");
    CHECK_EQ(peer_ask(first_control, "WAITEND"), 0, "its peer gets a FIN");
    CHECK_EQ(write(201, "a", 1), 1, "the next number is untouched");
    CHECK_EQ(close_range(201, 300, CLOSE_RANGE_CLOEXEC), 0, "CLOSE_RANGE_CLOEXEC");
    CHECK_EQ(fcntl(201, F_GETFD), FD_CLOEXEC, "only marks");
    CHECK_EQ(write(201, "b", 1), 1, "it still works");
    CHECK_ERRNO(close_range(300, 200, 0), EINVAL, "an empty range: EINVAL");
    closefrom(201);
    CHECK_ERRNO(write(201, "c", 1), EBADF, "closefrom closes it");
    CHECK_EQ(peer_ask(second_control, "RECVALL"), 2, "its peer has two bytes and the end");
    closefrom(3);
    CHECK_ERRNO(write(second_control, "x", 1), EBADF, "closefrom 3 closes all");
    int fd = t_tcp(0);
    CHECK_EQ(fd, 3, "the next socket is 3");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "and connects");
    return t_end();
}
