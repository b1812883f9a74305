/* A listener opened before fork: the child accepts, then parent and child each take their own. */
#include "t.h"

/* test REF L-03 */
static int serve_one(int listener)
{
    char data[4];
    int fd = accept(listener, NULL, NULL);
    if (fd < 0 || t_read_all(fd, data, 4) != 4 || write(fd, data, 4) != 4)
        return 1;
    return close(fd);
}

int main(void)
{
    int port, status = -1;

    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND)), listener = t_listener(0, &port);
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        close(control);
        _exit(serve_one(listener));
    }
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "and sends");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the child answers");
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "and closes");
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the child had no error");

    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the listener outlives the child");
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "the peer sends");
    CHECK_EQ(serve_one(listener), 0, "the parent serves");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the peer has the answer");

    /* Three workers share one queue. */
    pid_t workers[3];
    for (int i = 0; i < 3; i++) {
        workers[i] = MUST(fork());
        if (workers[i] == 0) {
            t_arm_deadline(T_DEADLINE_SECONDS);
            close(control);
            _exit(serve_one(listener));
        }
    }
    close(listener);
    for (int i = 0; i < 3; i++) {
        CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "connection %d for the workers", i);
        CHECK_EQ(peer_ask(control, "SEND 4"), 4, "connection %d: sent", i);
        CHECK_EQ(peer_ask(control, "RECV 4"), 4, "connection %d: answered", i);
    }
    for (int i = 0; i < 3; i++) {
        waitpid(workers[i], &status, 0);
        CHECK_EQ(status, 0, "worker %d had no error", i);
    }
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "with the last worker the port is closed");
    return t_end();
}
