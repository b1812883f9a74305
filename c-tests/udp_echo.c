/* Datagrams to the peer and back, unconnected and connected. */
#include "t.h"

/* test REF D-03 */
int main(void)
{
    char data[2048], expected[64];
    struct sockaddr_in peer = t_address(T_PEER, PORT_UDP_ECHO), from = {0};
    socklen_t length = sizeof from;

    t_begin();
    int fd = MUST(t_udp(0));
    CHECK_EQ(t_local_port(fd), 0, "no port at first");
    CHECK_EQ(sendto(fd, "ping", 4, 0, (struct sockaddr *)&peer, sizeof peer), 4, "sendto");
    int port = t_local_port(fd);
    CHECK(port >= 32768 && port <= 60999, "gave a port of the range");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "and no address");
    CHECK_EQ(recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length), 4, "recvfrom");
    CHECK(memcmp(data, "ping", 4) == 0, "the same bytes");
    CHECK(t_is(from, T_PEER) && ntohs(from.sin_port) == PORT_UDP_ECHO, "the sender");
    CHECK_EQ(length, sizeof from, "its length");

    peer = t_address(T_PEER, PORT_UDP_SOURCE);
    MUST(sendto(fd, "?", 1, 0, (struct sockaddr *)&peer, sizeof peer));
    ssize_t size = recv(fd, data, sizeof data - 1, 0);
    data[size > 0 ? size : 0] = 0;
    snprintf(expected, sizeof expected, "%s %d", T_LOCAL, port);
    CHECK(strcmp(data, expected) == 0, "the peer saw our address and port");

    /* Order and limits of 20 datagrams. */
    peer = t_address(T_PEER, PORT_UDP_ECHO);
    bool right = true;
    for (int i = 0; i < 20; i++) {
        memset(data, i, 100 + (size_t)i);
        MUST(sendto(fd, data, 100 + (size_t)i, 0, (struct sockaddr *)&peer, sizeof peer));
    }
    for (int i = 0; i < 20; i++) {
        T_HERE("recv of datagram");
        size = recv(fd, data, sizeof data, 0);
        right = right && size == 100 + i && data[0] == i && data[size - 1] == i;
    }
    CHECK(right, "20 datagrams come back whole, each in one read");
    CHECK_ERRNO(recv(fd, data, 1, MSG_DONTWAIT), EAGAIN, "and no more");
    CHECK_MASK(fd, MASK_OUT_UDP, "poll OUT");
    MUST(sendto(fd, "x", 1, 0, (struct sockaddr *)&peer, sizeof peer));
    CHECK_MASK(fd, MASK_OUT_UDP | MASK_IN, "poll IN OUT when one is there");
    CHECK_EQ(recv(fd, data, 1, MSG_PEEK), 1, "MSG_PEEK leaves it");
    CHECK_EQ(recv(fd, data, 1, 0), 1, "recv takes it");
    close(fd);

    /* A bound receiver and a sender at the peer. */
    int control = MUST(peer_connect(PORT_COMMAND));
    fd = MUST(t_udp(0));
    MUST(t_bind(fd, T_LOCAL, 0));
    int sender = MUST(peer_ask(control, "UDPSEND %s %d 300", T_LOCAL, t_local_port(fd)));
    length = sizeof from;
    CHECK_EQ(recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&from, &length), 300, "a bound socket receives");
    CHECK_EQ(ntohs(from.sin_port), sender, "from the peer's port");
    CHECK_EQ(pattern_match((unsigned char *)data, 300, 0), 300, "the right bytes");
    return t_end();
}
