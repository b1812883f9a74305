/* The smallest TCP client there is: socket, connect, write, read, close. */
#include "t.h"

int main(void)
{
    char answer[5] = "";
    struct sockaddr_in peer = t_address(T_PEER, PORT_ECHO);

    t_begin();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0, "socket gives a descriptor");
    CHECK_EQ(connect(fd, (struct sockaddr *)&peer, sizeof peer), 0, "connect succeeds");
    CHECK_EQ(write(fd, "hello", 5), 5, "write takes five bytes");
    CHECK_EQ(t_read_all(fd, answer, 5), 5, "read brings five bytes back");
    CHECK(memcmp(answer, "hello", 5) == 0, "they are the bytes that were written");
    CHECK_EQ(close(fd), 0, "close succeeds");
    CHECK_ERRNO(close(fd), EBADF, "the descriptor is gone");
    return t_end();
}
