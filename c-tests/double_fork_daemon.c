/* A listener opened before a double fork serves after the process that opened it has exited. */
#include "t.h"

static void daemon_body(int listener)
{
    char data[4];
    t_arm_deadline(T_DEADLINE_SECONDS);
    for (int i = 0; i < 2; i++) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0 || t_read_all(fd, data, 4) != 4 || write(fd, data, 4) != 4)
            _exit(1);
        close(fd);
    }
    _exit(0);
}

/* test REF L-03 */
int main(void)
{
    int port_pipe[2], port = 0, status = -1;

    t_begin();
    MUST(pipe(port_pipe));
    pid_t first = MUST(fork());
    if (first == 0) {
        /* This process opens the listener; its grandchild serves. */
        t_arm_deadline(T_DEADLINE_SECONDS);
        int listener = t_listener(0, &port);
        if (fork() == 0) {
            setsid();
            if (fork() == 0)
                daemon_body(listener);
            _exit(0);
        }
        wait(NULL);
        _exit(write(port_pipe[1], &port, sizeof port) == sizeof port ? 0 : 1);
    }
    waitpid(first, &status, 0);
    CHECK_EQ(status, 0, "the process that opened the listener has exited");
    MUST(read(port_pipe[0], &port, sizeof port) == sizeof port ? 0 : -1);
    int control = MUST(peer_connect(PORT_COMMAND));
    for (int i = 0; i < 2; i++) {
        CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "connection %d is accepted", i);
        CHECK_EQ(peer_ask(control, "SEND 4"), 4, "connection %d: the peer sends", i);
        CHECK_EQ(peer_ask(control, "RECV 4"), 4, "connection %d: the grandchild answers", i);
        CHECK_EQ(peer_ask(control, "WAITEND"), 0, "connection %d: and closes", i);
    }
    return t_end();
}
