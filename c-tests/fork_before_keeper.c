/* A child that was forked before the first connection is killed: what it held counts no more, and the parent's close is
 * the last one. */
#include "t.h"

int main(void)
{
    int control;
    t_begin();
    int fd = MUST(t_tcp(0));
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        pause();
        _exit(0);
    }
    control = MUST(peer_connect(PORT_COMMAND));
    int port = MUST(peer_ask(control, "LISTEN"));
    CHECK_EQ(t_connect(fd, T_PEER, port), 0, "the parent connects a socket that the child has, too");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer accepts");
    CHECK_EQ(kill(child, SIGKILL), 0, "the child is killed");
    CHECK_EQ(waitpid(child, NULL, 0), child, "it has ended");
    CHECK_EQ(write(fd, "x", 1), 1, "the connection outlives it");
    CHECK_EQ(close(fd), 0, "the last close");
    CHECK_EQ(peer_ask(control, "RECVALL"), 1, "the peer has the byte and the end");
    return t_end();
}
