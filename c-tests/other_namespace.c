/* A process that leaves the network namespace keeps its sockets, and so does its family: what it says of the interface,
 * which it no longer sees, ends nothing. Where unshare is not allowed, the child stays and only the sockets are shown. */
#include "t.h"

#include <sched.h>

static int talk(int fd, int turns)
{
    char data[4];
    for (int turn = 0; turn < turns; turn++) {
        if (write(fd, "echo", 4) != 4 || t_read_all(fd, data, 4) != 4 || memcmp(data, "echo", 4) != 0)
            return 1;
        t_sleep_ms(200);
    }
    return 0;
}

int main(void)
{
    t_begin();
    int fd = MUST(peer_connect(PORT_ECHO)), other = MUST(peer_connect(PORT_ECHO));
    pid_t child = MUST(fork());
    if (child == 0) {
        (void)!unshare(CLONE_NEWNET);
        _exit(talk(fd, 15));
    }
    /* The child is the one that waits for frames meanwhile. */
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the child talks for three seconds");
    CHECK_EQ(talk(other, 2), 0, "and the parent after it");
    CHECK(peer_connect(PORT_ECHO) >= 0, "a new connection");
    return t_end();
}
