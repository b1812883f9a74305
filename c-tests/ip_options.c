/* IP_OPTIONS: which options may be set and how they are shown, what goes over the wire and what comes back: record route
 * and timestamp with the peer, between two sockets of ours and through a listener; IP_RECVOPTS, IP_RETOPTS,
 * IP_RECVFRAGSIZE, IP_PKTOPTIONS. */
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#include "t.h"

#define IP_RECVFRAGSIZE_ 25
#define BYTES(...) {__VA_ARGS__}, sizeof((unsigned char[]){__VA_ARGS__})

static const struct {
    const char *text;
    unsigned char bytes[44];
    socklen_t length;
    int error;
} table[] = {
    {"no options", {0}, 0, 0},
    {"no operation", BYTES(1), 0},
    {"the end and what lies behind it", BYTES(1, 0, 9, 9), 0},
    {"an option without a length", BYTES(1, 1, 1, 7), EINVAL},
    {"a length of 1", BYTES(7, 1, 4), EINVAL},
    {"a length beyond the end", BYTES(7, 9, 4, 0), EINVAL},
    {"record route for one", BYTES(7, 7, 4, 0, 0, 0, 0), 0},
    {"record route for nine", BYTES(7, 39, 4, [38] = 0), 0},
    {"record route that is full", BYTES(7, 7, 8, 1, 2, 3, 4), 0},
    {"record route without room", BYTES(7, 3, 4), 0},
    {"record route with a pointer too low", BYTES(7, 7, 3, 0, 0, 0, 0), EINVAL},
    {"record route with a pointer too near to the end", BYTES(7, 7, 6, 0, 0, 0, 0), EINVAL},
    {"record route too short", BYTES(7, 2, 0, 0), EINVAL},
    {"two record routes", BYTES(7, 7, 4, 0, 0, 0, 0, 7, 7, 4, 0, 0, 0, 0), EINVAL},
    {"times alone", BYTES(0x44, 12, 5, 0, [11] = 0), 0},
    {"times with addresses", BYTES(0x44, 12, 5, 1, [11] = 0), 0},
    {"times with addresses without room", BYTES(0x44, 8, 5, 1, [7] = 0), EINVAL},
    {"times of a stranger", BYTES(0x44, 12, 5, 3, 192, 0, 2, 1, 0, 0, 0, 0), 0},
    {"times of loopback", BYTES(0x44, 12, 5, 3, 127, 0, 0, 1, 0, 0, 0, 0), 0},
    {"times too short", BYTES(0x44, 3, 5, 0), EINVAL},
    {"times with a pointer too low", BYTES(0x44, 8, 4, 0, 0, 0, 0, 0), EINVAL},
    {"times that are full", BYTES(0x44, 8, 9, 0, 1, 2, 3, 4), 0},
    {"times that have overflown", BYTES(0x44, 8, 9, 0xf0, 1, 2, 3, 4), EINVAL},
    {"loose route over one", BYTES(0x83, 7, 4, 192, 0, 2, 1), 0},
    {"loose route over two", BYTES(0x83, 11, 4, 192, 0, 2, 1, 192, 0, 2, 2), 0},
    {"strict route", BYTES(1, 0x89, 7, 4, 192, 0, 2, 1), 0},
    {"a route over nobody", BYTES(0x83, 3, 4, 0), EINVAL},
    {"a route of odd length", BYTES(0x83, 8, 4, 192, 0, 2, 1, 0), EINVAL},
    {"a route that has begun", BYTES(0x83, 11, 8, 192, 0, 2, 1, 192, 0, 2, 2), EINVAL},
    {"two routes", BYTES(0x83, 7, 4, 192, 0, 2, 1, 0x89, 7, 4, 192, 0, 2, 1), EINVAL},
    {"router alert", BYTES(0x94, 4, 0, 0), 0},
    {"router alert too short", BYTES(0x94, 3, 0, 0), EINVAL},
    {"a stream identifier, which takes a right", BYTES(0x88, 4, 0, 1), 0},
    {"forty bytes", BYTES([39] = 1), 0},
    {"more than forty", BYTES([40] = 1), EINVAL},
};

static void show(const unsigned char *bytes, socklen_t length)
{
    char text[160] = "#  ";
    for (socklen_t i = 0; i < length && i < 44; i++)
        sprintf(text + strlen(text), " %02x", bytes[i]);
    t_print("%s\n", text);
}

/* What was set is shown, up to the end of the options, filled up to a multiple of four. */
static void sets(const char *what, int fd)
{
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        unsigned char shown[44], expected[44] = {0};
        socklen_t length = sizeof shown, padded = (table[i].length + 3) / 4 * 4;
        int result = setsockopt(fd, IPPROTO_IP, IP_OPTIONS, table[i].bytes, table[i].length);
        CHECK_EQ(result ? errno : 0, table[i].error, "%s, %s", what, table[i].text);
        if (table[i].error)
            continue;
        MUST(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, shown, &length));
        memcpy(expected, table[i].bytes, table[i].length);
        for (socklen_t at = 0; at < padded && expected[at] <= 1; at++)
            if (expected[at] == 0)
                memset(expected + at, 0, sizeof expected - at);
        CHECK_EQ(length, padded, "%s, %s: the length is shown", what, table[i].text);
        bool same = memcmp(shown, expected, length) == 0;
        CHECK(same, "%s, %s: the bytes are shown", what, table[i].text);
        if (!same)
            show(shown, length);
    }
    CHECK_ERRNO(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, t_nowhere, 4), EFAULT, "%s: options from nowhere", what);
    unsigned char one[44] = {0x94, 4, 0, 0};
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, one, 4));
    socklen_t length = 2;
    MUST(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, one, &length));
    CHECK(length == 2 && one[0] == 0x94 && one[1] == 4, "%s: shown as far as there is room", what);
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, NULL, 0));
    length = sizeof one;
    MUST(getsockopt(fd, IPPROTO_IP, IP_OPTIONS, one, &length));
    CHECK_EQ(length, 0, "%s: and taken off", what);
}

static void nowhere_to_go(void)
{
    static const unsigned char route[] = {0x83, 7, 4, 10, 99, 0, 2};
    struct sockaddr_in nobody = t_address("0.0.0.0", 9);
    int fd = MUST(t_tcp(0));
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, route, sizeof route));
    CHECK_ERRNO(connect(fd, (struct sockaddr *)&nobody, sizeof nobody), EINVAL, "connect over a route to nobody");
    close(fd);
    fd = MUST(t_udp(0));
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, route, sizeof route));
    CHECK_ERRNO(sendto(fd, "x", 1, 0, (struct sockaddr *)&nobody, sizeof nobody), EINVAL, "sendto over it");
    close(fd);
    fd = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, route, sizeof route));
    CHECK_ERRNO(sendto(fd, "12345678", 8, 0, (struct sockaddr *)&nobody, sizeof nobody), EINVAL, "a raw socket, too");
    MUST(t_set_option(fd, IPPROTO_IP, IP_HDRINCL, 1));
    struct sockaddr_in peer = t_address(T_PEER, 0);
    unsigned char packet[28] = {0x45, 0, 0, 28, [8] = 64, 1};
    memcpy(packet + 16, &peer.sin_addr, 4);
    CHECK_ERRNO(sendto(fd, packet, sizeof packet, 0, (struct sockaddr *)&peer, sizeof peer), EINVAL,
                "with a header of the program's own there are no other options");
    close(fd);
}

static struct cmsghdr *find(struct msghdr *message, int kind)
{
    for (struct cmsghdr *one = CMSG_FIRSTHDR(message); one; one = CMSG_NXTHDR(message, one))
        if (one->cmsg_level == IPPROTO_IP && one->cmsg_type == kind)
            return one;
    return NULL;
}

/* A message from `to`, with its control messages. */
static ssize_t receive(int fd, struct msghdr *message, void *data, size_t length, void *control, size_t room)
{
    static struct iovec part;
    part = (struct iovec){data, length};
    *message = (struct msghdr){.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = room};
    t_wait(fd, POLLIN);
    return recvmsg(fd, message, MSG_DONTWAIT);
}

static unsigned short sum_of(const unsigned char *bytes, size_t length)
{
    unsigned sum = 0;
    for (size_t i = 0; i + 1 < length; i += 2)
        sum += bytes[i] << 8 | bytes[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons((unsigned short)~sum);
}

static bool is_address(const unsigned char *bytes, const char *ip)
{
    struct in_addr address;
    inet_pton(AF_INET, ip, &address);
    return memcmp(bytes, &address, 4) == 0;
}

/* An echo with these options; the options of the answer. */
static int echo(int fd, const void *options, socklen_t length, unsigned char answer[40])
{
    static unsigned short serial;
    struct sockaddr_in peer = t_address(T_PEER, 0);
    unsigned char request[16] = {ICMP_ECHO, 0, 0, 0, 0x77, 0x11, 0, (unsigned char)++serial, 'o', 'p', 't', 's'};
    unsigned char reply[256];
    unsigned short sum = sum_of(request, sizeof request);
    memcpy(request + 2, &sum, 2);
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, length));
    MUST(sendto(fd, request, sizeof request, 0, (struct sockaddr *)&peer, sizeof peer));
    for (int tries = 0; tries < 50 && t_wait(fd, POLLIN); tries++) {
        ssize_t got = recv(fd, reply, sizeof reply, MSG_DONTWAIT);
        int header = (reply[0] & 15) * 4;
        if (got < header + 8 || reply[header] != ICMP_ECHOREPLY || memcmp(reply + header + 4, request + 4, 4) != 0)
            continue;
        memcpy(answer, reply + 20, (size_t)header - 20);
        return header - 20;
    }
    return -1;
}

static void over_the_wire(void)
{
    int fd = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    unsigned char answer[40];
    static const unsigned char record[40] = {7, 39, 4};
    CHECK_EQ(echo(fd, record, 39, answer), 40, "an echo comes back with the route recorded");
    CHECK(is_address(answer + 3, T_LOCAL) && is_address(answer + 7, T_PEER) && is_address(answer + 11, T_PEER) &&
              is_address(answer + 15, T_LOCAL) && answer[2] == 20,
          "from us to the peer and back");
    show(answer, 24);
    static const unsigned char times[20] = {0x44, 20, 5, 0};
    CHECK_EQ(echo(fd, times, 20, answer), 20, "with times");
    CHECK(answer[2] == 21 && memcmp(answer + 4, (char[4]){0}, 4) != 0, "of four stations");
    static const unsigned char both[36] = {0x44, 36, 5, 1};
    CHECK_EQ(echo(fd, both, 36, answer), 36, "with times and addresses");
    CHECK(is_address(answer + 4, T_LOCAL) && is_address(answer + 12, T_PEER) && is_address(answer + 20, T_PEER) &&
              is_address(answer + 28, T_LOCAL) && answer[2] == 37,
          "of four stations, too");
    static const unsigned char none[4] = {1, 1, 1, 0};
    CHECK(echo(fd, none, 4, answer) >= 0, "with nothing but padding");
    close(fd);
}

static void between_datagrams(void)
{
    int from = MUST(t_udp(0)), to = MUST(t_udp(0));
    MUST(t_bind(to, T_LOCAL, 0));
    MUST(t_bind(from, T_LOCAL, 0));
    struct sockaddr_in name = t_address(T_LOCAL, t_local_port(to));
    static const unsigned char record[] = {7, 15, 4, [14] = 0};
    MUST(setsockopt(from, IPPROTO_IP, IP_OPTIONS, record, sizeof record));
    MUST(t_set_option(to, IPPROTO_IP, IP_RECVOPTS, 1));
    MUST(t_set_option(to, IPPROTO_IP, IP_RETOPTS, 1));
    MUST(sendto(from, "abc", 3, 0, (struct sockaddr *)&name, sizeof name));
    char data[16], control[256];
    struct msghdr message;
    CHECK_EQ(receive(to, &message, data, sizeof data, control, sizeof control), 3, "a datagram with options");
    struct cmsghdr *options = find(&message, IP_RECVOPTS);
    CHECK(options && options->cmsg_len == CMSG_LEN(16), "IP_RECVOPTS shows them");
    if (options) {
        unsigned char *bytes = CMSG_DATA(options);
        CHECK(bytes[2] == 12 && is_address(bytes + 3, T_LOCAL) && is_address(bytes + 7, T_LOCAL), "as they came");
        show(bytes, 16);
    }
    options = find(&message, IP_RETOPTS);
    CHECK(options && options->cmsg_len == CMSG_LEN(16), "IP_RETOPTS shows what an answer should have");
    if (options) {
        unsigned char *bytes = CMSG_DATA(options);
        CHECK(bytes[2] == 12 && is_address(bytes + 7, T_LOCAL) && memcmp(bytes + 11, "\0\0\0\0", 4) == 0, "to go on");
        show(bytes, 16);
        /* And an answer with it. */
        char space[CMSG_SPACE(40)] = {0};
        struct sockaddr_in back = t_address(T_LOCAL, t_local_port(from));
        struct iovec part = {"de", 2};
        struct msghdr answer = {&back, sizeof back, &part, 1, space, CMSG_SPACE(16), 0};
        struct cmsghdr *one = CMSG_FIRSTHDR(&answer);
        *one = (struct cmsghdr){CMSG_LEN(16), IPPROTO_IP, IP_RETOPTS};
        memcpy(CMSG_DATA(one), bytes, 16);
        MUST(t_set_option(from, IPPROTO_IP, IP_RECVOPTS, 1));
        CHECK_EQ(sendmsg(to, &answer, 0), 2, "an answer with IP_RETOPTS");
        CHECK_EQ(receive(from, &message, data, sizeof data, control, sizeof control), 2, "comes");
        options = find(&message, IP_RECVOPTS);
        CHECK(options && CMSG_DATA(options)[2] == 16 + (options->cmsg_len > CMSG_LEN(16) ? 4 : 0), "with all of them");
        CMSG_DATA(one)[1] = 1;
        CHECK_ERRNO(sendmsg(to, &answer, 0), EINVAL, "bad ones are refused");
    }
    MUST(t_set_option(to, IPPROTO_IP, IP_RECVFRAGSIZE_, 1));
    MUST(sendto(from, "abc", 3, 0, (struct sockaddr *)&name, sizeof name));
    MUST(receive(to, &message, data, sizeof data, control, sizeof control));
    CHECK(!find(&message, IP_RECVFRAGSIZE_), "what comes whole has no IP_RECVFRAGSIZE");
    close(from);
    close(to);
}

/* The peer's answer comes in fragments. */
static void fragments(void)
{
    static char data[8000];
    char control[128];
    struct msghdr message;
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    MUST(t_set_option(fd, IPPROTO_IP, IP_RECVFRAGSIZE_, 1));
    static const unsigned char options[] = {7, 7, 4, 0, 0, 0, 0, 0x94, 4, 0, 0, 0};
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, options, sizeof options));
    MUST(t_set_option(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT));
    pattern_fill((unsigned char *)data, sizeof data, 0);
    CHECK_EQ(send(fd, data, sizeof data, 0), (long)sizeof data, "a datagram in fragments with options");
    memset(data, 0, sizeof data);
    CHECK_EQ(receive(fd, &message, data, sizeof data, control, sizeof control), (long)sizeof data, "comes back");
    CHECK_EQ(pattern_match((unsigned char *)data, sizeof data, 0), (long)sizeof data, "as it was");
    struct cmsghdr *size = find(&message, IP_RECVFRAGSIZE_);
    int bytes = 0;
    if (size)
        memcpy(&bytes, CMSG_DATA(size), sizeof bytes);
    CHECK_EQ(bytes, 1500, "IP_RECVFRAGSIZE tells the largest fragment");
    close(fd);
}

static void streams(void)
{
    unsigned char bytes[44];
    socklen_t length = sizeof bytes;
    static const unsigned char record[] = {7, 39, 4, [38] = 0}, two[] = {7, 15, 4, [14] = 0};
    int port, listener = MUST(t_listener(0, &port)), fd = MUST(t_tcp(0));
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, two, sizeof two));
    static const unsigned char alert[] = {0x94, 4, 0, 0};
    MUST(setsockopt(listener, IPPROTO_IP, IP_OPTIONS, alert, sizeof alert));
    MUST(t_set_option(listener, IPPROTO_IP, IP_PKTINFO, 1));
    MUST(t_set_option(listener, IPPROTO_IP, IP_RECVTTL, 1));
    MUST(t_connect(fd, T_LOCAL, port));
    int child = MUST(accept(listener, NULL, NULL));
    MUST(getsockopt(child, IPPROTO_IP, IP_OPTIONS, bytes, &length));
    CHECK_EQ(length, 16, "who is accepted answers with the caller's options");
    CHECK(bytes[0] == 7 && bytes[2] == 12 && is_address(bytes + 3, T_LOCAL) && is_address(bytes + 7, T_LOCAL),
          "and not with the listener's");
    show(bytes, length);
    unsigned char all[256];
    length = sizeof all;
    MUST(getsockopt(child, IPPROTO_IP, 9, all, &length));
    CHECK_EQ(length, CMSG_SPACE(12) + CMSG_SPACE(4), "IP_PKTOPTIONS shows what was asked for");
    struct msghdr message = {.msg_control = all, .msg_controllen = length};
    struct cmsghdr *info = find(&message, IP_PKTINFO), *ttl = find(&message, IP_TTL);
    CHECK(info && is_address((unsigned char *)CMSG_DATA(info) + 4, T_LOCAL), "the address it came to");
    CHECK(ttl && *(int *)CMSG_DATA(ttl) == 64, "and its TTL");
    CHECK(t_write_all(fd, "hello", 5) == 5 && t_read_all(child, bytes, 5) == 5, "data goes there");
    CHECK(t_write_all(child, "hello", 5) == 5 && t_read_all(fd, bytes, 5) == 5, "and back");
    close(fd);
    close(child);
    close(listener);

    fd = MUST(t_tcp(0));
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, record, sizeof record));
    MUST(t_connect(fd, T_PEER, PORT_ECHO));
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_MAXSEG), 1500 - 40 - 12 - 40, "options make segments smaller");
    static unsigned char data[20000];
    pattern_fill(data, sizeof data, 0);
    CHECK_EQ(t_write_all(fd, data, sizeof data), (long)sizeof data, "and data goes with them");
    memset(data, 0, sizeof data);
    CHECK_EQ(t_read_all(fd, data, sizeof data), (long)sizeof data, "there and back");
    CHECK_EQ(pattern_match(data, sizeof data, 0), (long)sizeof data, "as it was");
    MUST(setsockopt(fd, IPPROTO_IP, IP_OPTIONS, NULL, 0));
    CHECK_EQ(t_option(fd, IPPROTO_TCP, TCP_MAXSEG), 1500 - 40 - 12, "without them they are as large as ever");
    close(fd);
}

/* test REF C-09 */
/* test REF N-01 */
int main(void)
{
    t_begin();
    int fd = MUST(t_tcp(0));
    sets("stream", fd);
    close(fd);
    fd = MUST(t_udp(0));
    sets("datagram", fd);
    close(fd);
    fd = MUST(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP));
    sets("raw", fd);
    close(fd);
    nowhere_to_go();
    over_the_wire();
    between_datagrams();
    fragments();
    streams();
    return t_end();
}
