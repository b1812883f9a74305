/* Byte for byte through an echo, each waited for in epoll without a timeout: no answer is slept over. */
#include <sys/epoll.h>

#include "t.h"

int main(void)
{
    char byte = 'e';
    struct epoll_event event = {.events = EPOLLIN}, got[4];

    t_begin();
    int fd = MUST(t_tcp(0));
    MUST(t_connect(fd, T_PEER, PORT_ECHO));
    for (int edge = 0; edge < 2; edge++) {
        int set = MUST(epoll_create1(0)), rounds = 0;
        event.events = EPOLLIN | (edge ? EPOLLET : 0);
        MUST(epoll_ctl(set, EPOLL_CTL_ADD, fd, &event));
        while (rounds < 300 && write(fd, &byte, 1) == 1 && epoll_wait(set, got, 4, -1) == 1 && read(fd, &byte, 1) == 1)
            rounds++;
        CHECK_EQ(rounds, 300, "300 rounds, %s-triggered", edge ? "edge" : "level");
        close(set);
    }
    close(fd);
    return t_end();
}
