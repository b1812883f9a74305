/* UDP_SEGMENT, UDP_GRO, UDP_CORK, SO_PEEK_OFF: one call, several datagrams, and the other way about. */
#include <netinet/udp.h>

#include "t.h"

static ssize_t echo(int fd, char *data, size_t room)
{
    return t_wait(fd, POLLIN) & POLLIN ? recv(fd, data, room, 0) : -1;
}

/* test REF D-03 */
int main(void)
{
    char data[4096];
    static char big[65000];

    t_begin();
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    MUST(t_set_option(fd, SOL_UDP, UDP_SEGMENT, 4));
    CHECK_EQ(send(fd, "abcdefghij", 10, 0), 10, "ten bytes in segments of four");
    CHECK(echo(fd, data, sizeof data) == 4 && memcmp(data, "abcd", 4) == 0, "are a datagram of four");
    CHECK(echo(fd, data, sizeof data) == 4 && memcmp(data, "efgh", 4) == 0, "another of four");
    CHECK(echo(fd, data, sizeof data) == 2 && memcmp(data, "ij", 2) == 0, "and one of two");
    CHECK_EQ(send(fd, "abc", 3, 0), 3, "less than a segment");
    CHECK_EQ(echo(fd, data, sizeof data), 3, "is one datagram");
    CHECK_ERRNO(send(fd, big, 4 * 128 + 1, 0), EINVAL, "more than 128 segments: EINVAL");
    MUST(t_set_option(fd, SOL_UDP, UDP_SEGMENT, 2000));
    CHECK_ERRNO(send(fd, big, 4000, 0), EMSGSIZE, "segments longer than the path takes: EMSGSIZE");
    MUST(t_set_option(fd, SOL_UDP, UDP_SEGMENT, 0));

    char control[CMSG_SPACE(sizeof(uint16_t))] = {0};
    struct iovec vector = {"123456", 6};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    struct cmsghdr *one = CMSG_FIRSTHDR(&message);
    one->cmsg_level = SOL_UDP;
    one->cmsg_type = UDP_SEGMENT;
    one->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    uint16_t size = 3;
    memcpy(CMSG_DATA(one), &size, sizeof size);
    CHECK_EQ(sendmsg(fd, &message, 0), 6, "the size as a control message");
    CHECK(echo(fd, data, sizeof data) == 3 && echo(fd, data, sizeof data) == 3, "counts for the call");
    one->cmsg_len = CMSG_LEN(1);
    CHECK_ERRNO(sendmsg(fd, &message, 0), EINVAL, "of another length: EINVAL");
    one->cmsg_len = CMSG_LEN(sizeof(uint16_t));
    one->cmsg_type = UDP_GRO;
    CHECK_ERRNO(sendmsg(fd, &message, 0), EINVAL, "another message of that level: EINVAL");

    MUST(t_set_option(fd, SOL_UDP, UDP_CORK, 1));
    CHECK_EQ(send(fd, "ab", 2, 0), 2, "corked");
    CHECK_EQ(send(fd, "cd", 2, 0), 2, "and more");
    CHECK_ERRNO(recv(fd, data, sizeof data, MSG_DONTWAIT), EAGAIN, "stays here");
    MUST(t_set_option(fd, SOL_UDP, UDP_CORK, 0));
    CHECK(echo(fd, data, sizeof data) == 4 && memcmp(data, "abcd", 4) == 0, "until the cork goes: one datagram");

    MUST(t_set_option(fd, SOL_SOCKET, SO_PEEK_OFF, 0));
    MUST(send(fd, "peek", 4, 0));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "there is one to peek at");
    CHECK(recv(fd, data, 2, MSG_PEEK) == 2 && memcmp(data, "pe", 2) == 0, "a peek with an offset");
    CHECK(recv(fd, data, 2, MSG_PEEK) == 2 && memcmp(data, "ek", 2) == 0, "goes on where the last one ended");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_PEEK_OFF), 4, "and the option tells");
    CHECK_EQ(recv(fd, data, sizeof data, 0), 4, "a read takes it all");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_PEEK_OFF), 0, "and moves the offset back");
    MUST(t_set_option(fd, SOL_SOCKET, SO_PEEK_OFF, -1));

    /* What comes in may be joined or not; no byte is lost, and the size is told when it is. */
    MUST(t_set_option(fd, SOL_UDP, UDP_GRO, 1));
    MUST(t_set_option(fd, SOL_UDP, UDP_SEGMENT, 100));
    MUST(send(fd, big, 1000, 0));
    size_t total = 0;
    bool sizes = true;
    while (total < 1000) {
        char space[64];
        struct iovec room = {data, sizeof data};
        struct msghdr in = {.msg_iov = &room, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        if (!(t_wait(fd, POLLIN) & POLLIN))
            break;
        ssize_t got = recvmsg(fd, &in, 0);
        if (got <= 0)
            break;
        total += (size_t)got;
        struct cmsghdr *told = CMSG_FIRSTHDR(&in);
        int segment = got > 100 ? 0 : 100;
        if (told && told->cmsg_level == SOL_UDP && told->cmsg_type == UDP_GRO)
            memcpy(&segment, CMSG_DATA(told), sizeof segment);
        sizes = sizes && segment == 100;
    }
    CHECK_EQ(total, 1000, "UDP_GRO: every byte arrives");
    CHECK(sizes, "and the size of the segments is told");
    return t_end();
}
