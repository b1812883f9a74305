/* TCP Fast Open: MSG_FASTOPEN and TCP_FASTOPEN_CONNECT towards a kernel's server, TCP_FASTOPEN for a kernel's client. */
#include "t.h"

static ssize_t open_with(int fd, int port, const void *data, size_t length, int flags)
{
    struct sockaddr_in to = t_address(T_PEER, port);
    return sendto(fd, data, length, MSG_FASTOPEN | flags, (struct sockaddr *)&to, sizeof to);
}

/* test REF C-15 */
static void client(int control)
{
    unsigned char pattern[32];
    int port = peer_ask(control, "LISTEN"), fd = MUST(t_tcp(0));
    pattern_fill(pattern, sizeof pattern, 0);
    CHECK_EQ(open_with(fd, port, pattern, 10, 0), 10, "without a cookie sendto connects, asks for one and sends");
    CHECK_EQ(t_tcp_state(fd), TCP_ESTABLISHED, "the connection stands");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer has it");
    CHECK_EQ(peer_ask(control, "RECV 10"), 10, "and the bytes");
    CHECK_ERRNO(open_with(fd, port, pattern, 1, 0), EISCONN, "a second time: EISCONN");
    close(fd);

    fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_EQ(open_with(fd, port, pattern, 20, 0), 20, "with a cookie the bytes go with the SYN, non-blocking too");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer has the connection");
    CHECK_EQ(peer_ask(control, "RECV 20"), 20, "and the bytes");
    CHECK_EQ(peer_ask(control, "SEND 5"), 5, "it answers");
    CHECK(t_wait(fd, POLLIN) & POLLIN, "the answer comes");
    CHECK_EQ(read(fd, pattern, 5), 5, "and is read");
    close(fd);

    fd = MUST(t_tcp(0));
    CHECK_EQ(t_set_option(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1), 0, "TCP_FASTOPEN_CONNECT");
    CHECK_EQ(t_connect(fd, T_PEER, port), 0, "connect succeeds at once");
    CHECK_MASK(fd, MASK_OUT, "and polls OUT");
    pattern_fill(pattern, sizeof pattern, 0);
    CHECK_EQ(write(fd, pattern, 7), 7, "the first write opens the connection");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer has it");
    CHECK_EQ(peer_ask(control, "RECV 7"), 7, "and the bytes");
    CHECK_EQ(write(fd, pattern + 7, 3), 3, "it goes on");
    CHECK_EQ(peer_ask(control, "RECV 3"), 3, "as any other");
    close(fd);
    peer_ask(control, "UNLISTEN");

    fd = MUST(t_tcp(0));
    CHECK_ERRNO(open_with(fd, port, pattern, 5, 0), ECONNREFUSED, "nobody listens: ECONNREFUSED");
    close(fd);
}

/* test REF L-04 */
static void server(int control)
{
    char data[64];
    unsigned char key[32] = {1}, shown[32];
    socklen_t length = sizeof shown;
    int port, listener = t_listener(0, &port);
    CHECK_EQ(t_set_option(listener, IPPROTO_TCP, TCP_FASTOPEN, 5), 0, "TCP_FASTOPEN");
    CHECK_EQ(t_option(listener, IPPROTO_TCP, TCP_FASTOPEN), 5, "is the length of the queue");
    CHECK_ERRNO(t_set_option(listener, IPPROTO_TCP, TCP_FASTOPEN, -1), EINVAL, "not negative: EINVAL");
    CHECK_ERRNO(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 15), EINVAL, "a key of 15 bytes: EINVAL");
    CHECK_EQ(setsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN_KEY, key, 32), 0, "two keys");
    CHECK_EQ(getsockopt(listener, IPPROTO_TCP, TCP_FASTOPEN_KEY, shown, &length), 0, "can be read");
    CHECK(length == 32 && memcmp(key, shown, 32) == 0, "as they were set");
    CHECK_EQ(t_option(listener, IPPROTO_TCP, TCP_FASTOPEN_NO_COOKIE), 0, "cookies are wanted");
    for (int round = 0; round < 2; round++) {
        CHECK(peer_ask(control, "FASTOPEN %s %d 12", T_LOCAL, port) >= 0, "the peer opens fast, round %d", round);
        int fd = MUST(accept(listener, NULL, NULL));
        CHECK_EQ(t_read_all(fd, data, 12), 12, "its bytes are here, round %d", round);
        close(fd);
    }
    close(listener);
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    client(control);
    server(control);
    return t_end();
}
