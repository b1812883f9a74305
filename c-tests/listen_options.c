/* What a listener can be told: TCP_DEFER_ACCEPT, TCP_SAVE_SYN, SO_REUSEPORT (streams and datagrams, forked holders),
 * SO_INCOMING_CPU. */
#include "t.h"

#define GROUP 2
#define CONNECTIONS 60

/* test REF L-02 */
static void saved_syn(int control)
{
    unsigned char bytes[256];
    socklen_t length = sizeof bytes;
    int port, listener = t_listener(0, &port);
    CHECK_EQ(t_option(listener, IPPROTO_TCP, TCP_SAVE_SYN), 0, "TCP_SAVE_SYN is off");
    CHECK_ERRNO(t_set_option(listener, IPPROTO_TCP, TCP_SAVE_SYN, 3), EINVAL, "3 is no value: EINVAL");
    CHECK_ERRNO(t_set_option(listener, IPPROTO_TCP, TCP_SAVE_SYN, -1), EINVAL, "nor is -1");
    CHECK_EQ(t_set_option(listener, IPPROTO_TCP, TCP_SAVE_SYN, 1), 0, "1 is");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
    int fd = MUST(accept(listener, NULL, NULL));
    length = 20;
    CHECK_ERRNO(getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, bytes, &length), EINVAL, "too little room: EINVAL");
    CHECK_EQ(length, 60, "and how much it takes");
    length = sizeof bytes;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, bytes, &length), 0, "the SYN");
    CHECK_EQ(length, 60, "is an IP header and a TCP header with options");
    CHECK_EQ(bytes[0], 0x45, "IPv4");
    CHECK_EQ(bytes[9], 6, "TCP");
    CHECK_EQ(bytes[20 + 2] << 8 | bytes[20 + 3], port, "to our port");
    CHECK_EQ(bytes[20 + 13] & 0x3f, 2, "with SYN alone");
    length = sizeof bytes;
    CHECK_EQ(getsockopt(fd, IPPROTO_TCP, TCP_SAVED_SYN, bytes, &length), 0, "a second time");
    CHECK_EQ(length, 0, "there is nothing");
    close(fd);
    close(listener);
}

/* test REF L-03 */
static void deferred(int control)
{
    int port, listener = t_listener(SOCK_NONBLOCK, &port);
    CHECK_EQ(t_set_option(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT, 5), 0, "TCP_DEFER_ACCEPT");
    CHECK_EQ(t_option(listener, IPPROTO_TCP, TCP_DEFER_ACCEPT), 7, "is rounded up to whole timeouts");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
    t_sleep_ms(200);
    CHECK_ERRNO(accept(listener, NULL, NULL), EAGAIN, "a silent connection is not shown");
    CHECK_EQ(peer_ask(control, "SEND 4"), 4, "the peer sends");
    CHECK_MASK(listener, MASK_IN, "with data it is");
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0, "accept");
    char data[4];
    CHECK_EQ(recv(fd, data, 4, MSG_DONTWAIT), 4, "and the data is there at once");
    close(fd);
    close(listener);
}

static int shared_listener(int kind, int *port)
{
    int fd = MUST(socket(AF_INET, kind | SOCK_NONBLOCK, 0));
    MUST(t_set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(t_bind(fd, "0.0.0.0", *port));
    *port = t_local_port(fd);
    if (kind == SOCK_STREAM)
        MUST(listen(fd, 128));
    return fd;
}

static int drain_accept(int fd)
{
    int count = 0, got;
    while ((got = accept(fd, NULL, NULL)) >= 0) {
        close(got);
        count++;
    }
    return count;
}

static int drain_datagrams(int fd)
{
    int count = 0;
    char byte;
    while (recv(fd, &byte, 1, 0) >= 0)
        count++;
    return count;
}

/* test REF L-01 */
static void streams_share(int control)
{
    int fds[GROUP], counts[GROUP], port = 0, status = -1;
    for (int i = 0; i < GROUP; i++)
        fds[i] = shared_listener(SOCK_STREAM, &port);
    int alone = MUST(t_tcp(0));
    CHECK_ERRNO(t_bind(alone, "0.0.0.0", port), EADDRINUSE, "one without SO_REUSEPORT stays out");
    close(alone);
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, port, CONNECTIONS), CONNECTIONS, "connections to the group");
    /* The last ACKs may still be on their way. */
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    memset(counts, 0, sizeof counts);
    while (counts[0] + counts[1] < CONNECTIONS && t_now_ms() < deadline) {
        for (int i = 0; i < GROUP; i++)
            counts[i] += drain_accept(fds[i]);
        t_sleep_ms(1);
    }
    CHECK_EQ(counts[0] + counts[1], CONNECTIONS, "all come out");
    CHECK(counts[0] >= CONNECTIONS / 6 && counts[1] >= CONNECTIONS / 6, "each member has a fair share");

    /* One member belongs to a child alone. */
    pid_t child = MUST(fork());
    if (child == 0) {
        t_arm_deadline(T_DEADLINE_SECONDS);
        int count = 0;
        long long end = t_now_ms() + 1500;
        while (t_now_ms() < end) {
            count += drain_accept(fds[1]);
            t_sleep_ms(1);
        }
        _exit(count);
    }
    close(fds[1]);
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, port, CONNECTIONS), CONNECTIONS, "connections to both");
    waitpid(child, &status, 0);
    CHECK(WIFEXITED(status), "the child ended by itself");
    int own = drain_accept(fds[0]);
    CHECK_EQ(own + WEXITSTATUS(status), CONNECTIONS, "parent and child have all of them");
    CHECK(own >= CONNECTIONS / 6 && WEXITSTATUS(status) >= CONNECTIONS / 6, "each a fair share");
    close(fds[0]);
}

static void datagrams_share(int control)
{
    int fds[GROUP], counts[GROUP] = {0}, port = 0;
    for (int i = 0; i < GROUP; i++)
        fds[i] = shared_listener(SOCK_DGRAM, &port);
    for (int i = 0; i < CONNECTIONS; i++)
        MUST(peer_ask(control, "UDPSEND %s %d 1", T_LOCAL, port));
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (counts[0] + counts[1] < CONNECTIONS && t_now_ms() < deadline) {
        for (int i = 0; i < GROUP; i++)
            counts[i] += drain_datagrams(fds[i]);
        t_sleep_ms(1);
    }
    CHECK_EQ(counts[0] + counts[1], CONNECTIONS, "each datagram comes once");
    CHECK(counts[0] >= CONNECTIONS / 6 && counts[1] >= CONNECTIONS / 6, "and each socket has a fair share");
    close(fds[0]);
    close(fds[1]);
}

static void incoming_cpu(void)
{
    int fd = MUST(t_tcp(0));
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_INCOMING_CPU), -1, "SO_INCOMING_CPU is unset");
    CHECK_EQ(t_set_option(fd, SOL_SOCKET, SO_INCOMING_CPU, 0), 0, "it can be set");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_INCOMING_CPU), 0, "and is kept");
    close(fd);
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    saved_syn(control);
    deferred(control);
    streams_share(control);
    datagrams_share(control);
    incoming_cpu();
    return t_end();
}
