/* Datagrams to broadcast addresses need SO_BROADCAST. */
#include "t.h"

/* test REF C-07 */
int main(void)
{
    struct sockaddr_in subnet = t_address(T_BROADCAST, 9), limited = t_address("255.255.255.255", 9);

    t_begin();
    int fd = MUST(t_udp(0));
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_BROADCAST), 0, "SO_BROADCAST is off at first");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, (struct sockaddr *)&subnet, sizeof subnet), EACCES, "subnet: EACCES");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, (struct sockaddr *)&limited, sizeof limited), EACCES, "limited: EACCES");
    CHECK_ERRNO(t_connect(fd, T_BROADCAST, 9), EACCES, "connect: EACCES");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_BROADCAST, 1), 0, "SO_BROADCAST on");
    CHECK_EQ(sendto(fd, "a", 1, 0, (struct sockaddr *)&subnet, sizeof subnet), 1, "subnet: sent");
    CHECK_EQ(t_connect(fd, T_BROADCAST, 9), 0, "connect: 0");
    CHECK_EQ(write(fd, "a", 1), 1, "write: sent");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_BROADCAST, 0), 0, "SO_BROADCAST off");
    CHECK_ERRNO(sendto(fd, "a", 1, 0, (struct sockaddr *)&subnet, sizeof subnet), EACCES, "subnet: EACCES again");
    return t_end();
}
