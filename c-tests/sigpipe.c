/* SIGPIPE: sent with EPIPE unless MSG_NOSIGNAL is given; kills by default. */
#include "t.h"

/* test REF T-10 */
int main(void)
{
    int control, status = 0;
    struct iovec part = {"a", 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};

    t_begin();
    t_catch(SIGPIPE, 0);
    int fd = peer_pair(&control);
    MUST(shutdown(fd, SHUT_WR));
    CHECK_ERRNO(send(fd, "a", 1, MSG_NOSIGNAL), EPIPE, "MSG_NOSIGNAL: EPIPE");
    CHECK_EQ(t_signals, 0, "without a signal");
    CHECK_ERRNO(sendmsg(fd, &message, MSG_NOSIGNAL), EPIPE, "sendmsg with MSG_NOSIGNAL: EPIPE");
    CHECK_EQ(t_signals, 0, "without a signal");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write: EPIPE");
    CHECK_EQ(t_signals, 1, "with one signal");
    CHECK_ERRNO(writev(fd, &part, 1), EPIPE, "writev: EPIPE");
    CHECK_EQ(t_signals, 2, "with one signal");
    CHECK_ERRNO(send(fd, "a", 1, 0), EPIPE, "send: EPIPE");
    CHECK_EQ(t_signals, 3, "with one signal");
    CHECK_ERRNO(sendmsg(fd, &message, 0), EPIPE, "sendmsg: EPIPE");
    CHECK_EQ(t_signals, 4, "with one signal");
    pid_t child = MUST(fork());
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        _exit(write(fd, "a", 1) == -1 ? 0 : 1);
    }
    waitpid(child, &status, 0);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE, "by default the signal kills");
    close(fd);

    fd = MUST(t_tcp(0));
    t_signals = 0;
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "a fresh socket: EPIPE");
    CHECK_EQ(t_signals, 1, "with a signal");
    close(fd);
    fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    MUST(shutdown(fd, SHUT_WR));
    t_signals = 0;
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "a datagram socket: EPIPE");
    CHECK_EQ(t_signals, 0, "without a signal");
    return t_end();
}
