/* UDP-Lite: sockets, options and what the checksum covers, with both ends on our address; the peer's kernel answers for a
 * port that nobody has, which it does for a right checksum only. */
#include "t.h"

#ifndef IPPROTO_UDPLITE
#define IPPROTO_UDPLITE 136
#endif
#define SEND_COVERAGE 10
#define RECEIVE_COVERAGE 11

static int lite(void)
{
    return MUST(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE));
}

static int option(int fd, int name)
{
    return t_option(fd, IPPROTO_UDPLITE, name);
}

static void options(void)
{
    int fd = lite(), udp = t_udp(0);

    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_PROTOCOL), IPPROTO_UDPLITE, "SO_PROTOCOL");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_TYPE), SOCK_DGRAM, "SO_TYPE");
    CHECK_EQ(option(fd, SEND_COVERAGE), 0, "no coverage is set at first");
    CHECK_EQ(option(fd, RECEIVE_COVERAGE), 0, "nor is one asked for");
    CHECK_EQ(t_set_option(fd, IPPROTO_UDPLITE, SEND_COVERAGE, 3), 0, "less than the header");
    CHECK_EQ(option(fd, SEND_COVERAGE), 8, "is the header");
    CHECK_EQ(t_set_option(fd, IPPROTO_UDPLITE, RECEIVE_COVERAGE, 70000), 0, "more than a packet can have");
    CHECK_EQ(option(fd, RECEIVE_COVERAGE), 65535, "is cut down");
    CHECK_EQ(t_option(fd, IPPROTO_UDP, SEND_COVERAGE), 8, "IPPROTO_UDP has the same options");
    CHECK_ERRNO(t_set_option(udp, IPPROTO_UDPLITE, SEND_COVERAGE, 8), ENOPROTOOPT, "UDP has no coverage: ENOPROTOOPT");
    CHECK_EQ(option(udp, SEND_COVERAGE), 0, "but shows it");
    close(fd);
    close(udp);
}

static void ports(void)
{
    int one = lite(), other = lite(), udp = t_udp(0);

    MUST(t_bind(one, T_LOCAL, 0));
    int port = t_local_port(one);
    CHECK_ERRNO(t_bind(other, T_LOCAL, port), EADDRINUSE, "a port is bound once: EADDRINUSE");
    CHECK_EQ(t_bind(udp, T_LOCAL, port), 0, "UDP has ports of its own");
    close(one);
    close(other);
    close(udp);
}

static void data(void)
{
    static char payload[20000], buffer[20000];
    int one = lite(), other = lite();

    memset(payload, 'x', sizeof payload);
    MUST(t_bind(one, T_LOCAL, 0));
    MUST(t_connect(other, T_LOCAL, t_local_port(one)));
    CHECK_EQ(t_mask(one), MASK_OUT_UDP, "nothing to read");
    CHECK_EQ(send(other, payload, sizeof payload, 0), (ssize_t)sizeof payload, "a long packet goes");
    CHECK(t_wait(one, POLLIN) & POLLIN, "and comes");
    CHECK_EQ(recv(one, buffer, sizeof buffer, 0), (ssize_t)sizeof buffer, "whole");
    CHECK(memcmp(payload, buffer, sizeof buffer) == 0, "as it was sent");
    CHECK_EQ(send(other, "", 0, 0), 0, "an empty one goes");
    CHECK_EQ(recv(one, buffer, sizeof buffer, 0), 0, "and comes");

    MUST(t_set_option(other, IPPROTO_UDPLITE, SEND_COVERAGE, 8));
    MUST(send(other, "partly", 6, 0));
    CHECK_EQ(recv(one, buffer, sizeof buffer, 0), 6, "a partly covered packet comes");
    MUST(t_set_option(one, IPPROTO_UDPLITE, RECEIVE_COVERAGE, 12));
    MUST(send(other, "too little", 10, 0));
    MUST(t_set_option(other, IPPROTO_UDPLITE, SEND_COVERAGE, 12));
    MUST(send(other, "enough", 6, 0));
    CHECK_EQ(recv(one, buffer, sizeof buffer, 0), 6, "one that is covered less than asked for does not");
    CHECK(memcmp(buffer, "enough", 6) == 0, "but the next one does");
    MUST(t_set_option(one, IPPROTO_UDPLITE, RECEIVE_COVERAGE, 0));
    MUST(send(other, "partly", 6, 0));
    MUST(t_set_option(other, IPPROTO_UDPLITE, SEND_COVERAGE, 0));
    MUST(send(other, "all", 3, 0));
    CHECK_EQ(recv(one, buffer, sizeof buffer, 0), 3, "who asks for all gets no other");
    close(one);
    close(other);
}

static void wire(void)
{
    static const int coverages[] = {-1, 0, 8, 20};
    char byte;

    for (size_t at = 0; at < sizeof coverages / sizeof *coverages; at++) {
        int fd = lite();
        if (coverages[at] >= 0)
            MUST(t_set_option(fd, IPPROTO_UDPLITE, SEND_COVERAGE, coverages[at]));
        MUST(t_connect(fd, T_PEER, 9));
        MUST(send(fd, "nobody is there", 15, 0));
        CHECK(t_wait(fd, POLLIN) != 0, "an answer comes to coverage %d", coverages[at]);
        CHECK_ERRNO(recv(fd, &byte, 1, MSG_DONTWAIT), ECONNREFUSED, "the peer found it right and refuses it");
        close(fd);
    }
}

int main(void)
{
    t_begin();
    options();
    ports();
    data();
    wire();
    return t_end();
}
