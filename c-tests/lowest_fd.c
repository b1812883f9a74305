/* A new descriptor has the lowest free number, whoever made it. */
#include <sys/epoll.h>

#include "t.h"

/* test REF S-01 */
int main(void)
{
    int port, pipes[2];

    t_begin();
    closefrom(3);
    CHECK_EQ(t_tcp(0), 3, "the first socket is 3");
    CHECK_EQ(t_udp(0), 4, "the second 4");
    CHECK_EQ(open("/dev/null", O_RDONLY), 5, "a file 5");
    CHECK_EQ(t_connect(3, T_PEER, PORT_ECHO), 0, "connecting takes no number");
    CHECK_EQ(t_tcp(0), 6, "as the next socket shows: 6");
    CHECK_EQ(close(4), 0, "4 is closed");
    CHECK_EQ(t_tcp(0), 4, "and used again");
    CHECK_EQ(close(3), 0, "the connection 3 is closed");
    CHECK_EQ(open("/dev/null", O_RDONLY), 3, "and its number goes to a file");
    CHECK_EQ(dup(4), 7, "dup takes the next: 7");
    CHECK_EQ(epoll_create1(0), 8, "an epoll set 8");
    CHECK_EQ(pipe(pipes), 0, "a pipe");
    CHECK(pipes[0] == 9 && pipes[1] == 10, "9 and 10");
    struct epoll_event event = {.events = EPOLLIN};
    CHECK_EQ(epoll_ctl(8, EPOLL_CTL_ADD, 4, &event), 0, "registering takes no number");
    struct pollfd entry = {4, POLLIN, 0};
    CHECK(poll(&entry, 1, 0) >= 0, "nor polling");
    closefrom(4);
    int listener = t_listener(0, &port);
    CHECK_EQ(listener, 4, "a listener is 4");
    int control = peer_connect(PORT_COMMAND);
    CHECK_EQ(control, 5, "a connection 5");
    MUST(peer_ask(control, "CONNECT %s %d", T_LOCAL, port));
    CHECK_EQ(accept(listener, NULL, NULL), 6, "an accepted one 6");
    return t_end();
}
