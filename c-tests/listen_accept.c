/* listen(), accept() and accept4() with a peer that connects to us. */
#include "t.h"

/* test REF L-01 */
static void not_listening(void)
{
    int port, fd = MUST(t_tcp(0)), udp = MUST(t_udp(0));
    CHECK_ERRNO(accept(fd, NULL, NULL), EINVAL, "accept on a fresh socket: EINVAL");
    CHECK_ERRNO(listen(udp, 1), EOPNOTSUPP, "listen on a datagram socket: EOPNOTSUPP");
    CHECK_ERRNO(accept(udp, NULL, NULL), EOPNOTSUPP, "accept on a datagram socket: EOPNOTSUPP");
    CHECK_ERRNO(listen(999, 1), EBADF, "listen on no descriptor: EBADF");
    CHECK_ERRNO(accept(999, NULL, NULL), EBADF, "accept on no descriptor: EBADF");
    CHECK_ERRNO(accept4(fd, NULL, NULL, 0x10), EINVAL, "accept4 with an unknown flag: EINVAL");
    CHECK_EQ(listen(fd, 3), 0, "listen on an unbound socket");
    CHECK(t_local_port(fd) != 0, "gives it a port");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "on every address");
    close(fd);
    close(udp);

    fd = t_listener(0, &port);
    CHECK_EQ(listen(fd, 1), 0, "a second listen only changes the backlog");
    CHECK_EQ(t_local_port(fd), port, "and keeps the port");
    CHECK_MASK(fd, 0, "an idle listener polls nothing");
    CHECK_ERRNO(read(fd, &port, 1), ENOTCONN, "read on a listener: ENOTCONN");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write on a listener: EPIPE");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 1, "SO_ACCEPTCONN is 1");
    CHECK_EQ(t_tcp_state(fd), TCP_LISTEN, "TCP_INFO says LISTEN");
    close(fd);
}

/* test REF L-03 */
static void accepting(int control)
{
    char data[4];
    struct sockaddr_in name = {0};
    socklen_t length = sizeof name;
    int port, listener = t_listener(SOCK_NONBLOCK, &port);
    CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN, "nothing there, non-blocking: EAGAIN");
    MUST(peer_tell(control, "CONNECT %s %d", T_LOCAL, port));
    char answer[256];
    snprintf(answer, sizeof answer, "%s", peer_answer(control));
    int slot = -1, peer_port = -1;
    CHECK(sscanf(answer, "OK %d %d", &slot, &peer_port) == 2, "the peer connects before anybody accepts");
    CHECK_MASK(listener, MASK_IN, "then the listener polls IN");
    int fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0, "accept");
    CHECK_EQ(length, sizeof name, "the length of the peer's address");
    CHECK(t_is(name, T_PEER), "the peer's address");
    CHECK_EQ(ntohs(name.sin_port), peer_port, "the peer's port");
    CHECK(t_is(t_sockname(fd), T_LOCAL), "our address");
    CHECK_EQ(t_local_port(fd), port, "our port");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR, "O_NONBLOCK is not inherited");
    CHECK_EQ(fcntl(fd, F_GETFD), 0, "nor is CLOEXEC set");
    CHECK_MASK(fd, MASK_OUT, "the connection polls OUT");
    CHECK_MASK(listener, 0, "the listener polls nothing again");
    MUST(peer_tell(control, "SEND 4"));
    CHECK_EQ(t_read_all(fd, data, 4), 4, "the peer's bytes come");
    MUST(peer_number(control));
    CHECK_EQ(write(fd, data, 4), 4, "and go back");
    CHECK_EQ(peer_ask(control, "RECV 4"), 4, "the peer got them");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "close sends a FIN");
    close(listener);
}

static void flags_and_truncation(int control)
{
    struct sockaddr_in name;
    socklen_t length;
    int port, listener = t_listener(0, &port);
    CHECK_EQ(peer_ask(control, "MANY %s %d 5", T_LOCAL, port), 5, "five connections wait in the queue");
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    CHECK(fd >= 0, "accept4");
    CHECK_EQ(fcntl(fd, F_GETFL), O_RDWR | O_NONBLOCK, "SOCK_NONBLOCK");
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC, "SOCK_CLOEXEC");
    close(fd);

    memset(&name, 0xee, sizeof name);
    length = 4;
    fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0, "accept with room for four bytes");
    CHECK_EQ(length, sizeof name, "the full length is told");
    CHECK_EQ(name.sin_family, AF_INET, "what fits is written");
    CHECK_EQ(name.sin_addr.s_addr, 0xeeeeeeee, "the rest is untouched");
    close(fd);

    length = 0;
    fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0, "accept with no room");
    CHECK_EQ(length, sizeof name, "tells the length too");
    close(fd);

    length = (socklen_t)-1;
    CHECK_ERRNO(accept(listener, (struct sockaddr *)&name, &length), EINVAL, "negative length: EINVAL");
    length = 128;
    fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0, "accept with more room than needed");
    CHECK_EQ(length, sizeof name, "the length is that of the address");
    close(fd);
    close(listener);
}

static void shut_listener(int control)
{
    int port = t_free_port(), listener = MUST(t_tcp(SOCK_NONBLOCK));
    MUST(t_bind(listener, T_LOCAL, port));
    MUST(listen(listener, 4));
    CHECK_EQ(shutdown(listener, SHUT_WR), 0, "shutdown of the write half");
    CHECK_MASK(listener, 0, "changes nothing");
    CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN, "accept still EAGAIN");
    CHECK_EQ(shutdown(listener, SHUT_RD), 0, "shutdown of the read half");
    CHECK_MASK(listener, MASK_OUT | POLLHUP, "polls OUT HUP");
    CHECK_ERRNO(accept(listener, NULL, NULL), EINVAL, "accept EINVAL");
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "the port refuses");
    CHECK_EQ(listen(listener, 1), 0, "listen works again");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the port answers again");
    CHECK_MASK(listener, MASK_IN, "and polls IN");
    close(listener);
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "close resets what waits in the queue");
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "and the port refuses");
}

/* test REF C-04 */
static void waiting(int control)
{
    int port, listener = t_listener(0, &port);
    MUST(t_set_timeout(listener, SO_RCVTIMEO, 150));
    long long start = t_now_ms();
    CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN, "accept under SO_RCVTIMEO: EAGAIN");
    CHECK(t_now_ms() - start >= 140, "after the time");
    MUST(t_set_timeout(listener, SO_RCVTIMEO, 3000));
    t_catch(SIGUSR1, SA_RESTART);
    timer_t timer = t_signal_every(SIGUSR1, 40);
    CHECK_ERRNO(accept(listener, NULL, NULL), EINTR, "SA_RESTART with SO_RCVTIMEO: EINTR");
    MUST(t_set_timeout(listener, SO_RCVTIMEO, 0));
    t_catch(SIGUSR1, 0);
    CHECK_ERRNO(accept(listener, NULL, NULL), EINTR, "without SA_RESTART: EINTR");
    t_catch(SIGUSR1, SA_RESTART);
    t_signals = 0;
    pid_t child = MUST(fork());
    if (child == 0) {
        /* The child's connection to the command port is its own, the family's accept is the parent's. */
        t_sleep_ms(200);
        _exit(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0 ? 0 : 1);
    }
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0, "SA_RESTART: accept goes on until the connection comes");
    timer_delete(timer);
    CHECK(t_signals > 0, "though the handler ran");
    int status = -1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "the child saw the peer connect");
    close(fd);
    close(listener);
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    not_listening();
    accepting(control);
    flags_and_truncation(control);
    shut_listener(control);
    waiting(control);
    return t_end();
}
