/* Connections that outlive the listener and the process that had it, as those of a server that forks and ends: bulk data
 * comes through without a retransmission's delay, and the answer goes back. */
#include "t.h"

#define BULK 4000000
/* Below the ephemeral ports, each of which is its owner's in any case. */
#define PORT 7221

/* Accepts one, closes the listener, leaves the connection to a child and ends at once. */
static void serve(int port, int out)
{
    static char data[BULK];
    int one = 1, listener = MUST(t_tcp(SOCK_CLOEXEC));
    MUST(setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    MUST(t_bind(listener, T_LOCAL, port));
    MUST(listen(listener, 4));
    if (write(out, &port, sizeof port) != sizeof port)
        _exit(1);
    int fd = accept(listener, NULL, NULL);
    close(listener);
    if (fork() != 0)
        _exit(0);
    t_arm_deadline(T_DEADLINE_SECONDS);
    ssize_t got = t_read_all(fd, data, BULK);
    if (got == BULK)
        t_write_all(fd, data, 4);
    close(fd);
    _exit(0);
}

int main(void)
{
    int ports[2], port, status;

    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    MUST(pipe(ports));
    for (int round = 0; round < 3; round++) {
        pid_t child = MUST(fork());
        if (child == 0) {
            close(control);
            serve(PORT + round, ports[1]);
        }
        CHECK_EQ(read(ports[0], &port, sizeof port), sizeof port, "round %d: it listens", round);
        CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
        waitpid(child, &status, 0);
        CHECK_EQ(status, 0, "the process with the listener has ended");
        long long start = t_now_ms();
        CHECK_EQ(peer_ask(control, "SEND %d", BULK), BULK, "bulk data is sent");
        CHECK_EQ(peer_ask(control, "RECV 4"), 4, "all of it has come");
        CHECK(t_now_ms() - start < T_PATIENCE_MS, "without long waits");
        CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and the connection ends");
        MUST(peer_ask(control, "CLOSE"));
    }
    return t_end();
}
