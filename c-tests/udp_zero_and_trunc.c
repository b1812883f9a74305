/* Sizes of datagrams: none, too large for the reader, too large for IP, fragmented. */
#include "t.h"

/* test REF D-03 */
/* test REF N-01 */
int main(void)
{
    static unsigned char out[70000], in[70000];

    t_begin();
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    CHECK_EQ(write(fd, "", 0), 0, "an empty datagram is sent");
    CHECK_EQ(t_wait(fd, POLLIN), POLLIN, "its echo is readable");
    CHECK_EQ(recv(fd, in, sizeof in, MSG_DONTWAIT), 0, "and empty");
    CHECK_ERRNO(recv(fd, in, sizeof in, MSG_DONTWAIT), EAGAIN, "it was one datagram");

    pattern_fill(out, sizeof out, 0);
    MUST(write(fd, out, 100));
    CHECK_EQ(recv(fd, in, 10, 0), 10, "a reader with room for 10 of 100 bytes gets 10");
    CHECK_ERRNO(recv(fd, in, 10, MSG_DONTWAIT), EAGAIN, "the rest is lost");
    MUST(write(fd, out, 100));
    CHECK_EQ(recv(fd, in, 10, MSG_TRUNC), 100, "MSG_TRUNC tells the real size");
    MUST(write(fd, out, 100));
    CHECK_EQ(recv(fd, in, 10, MSG_TRUNC | MSG_PEEK), 100, "with MSG_PEEK too");
    CHECK_EQ(recv(fd, NULL, 0, 0), 0, "room for nothing: 0, and the datagram is gone");
    CHECK_ERRNO(recv(fd, in, 10, MSG_DONTWAIT), EAGAIN, "indeed");

    static const size_t sizes[] = {1472, 1473, 2960, 8000, 60000, 65507};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        CHECK_EQ(write(fd, out, sizes[i]), sizes[i], "%zu bytes are sent", sizes[i]);
        memset(in, 0, sizeof in);
        CHECK_EQ(recv(fd, in, sizeof in, 0), sizes[i], "%zu bytes come back", sizes[i]);
        CHECK_EQ(pattern_match(in, sizes[i], 0), sizes[i], "%zu bytes are right", sizes[i]);
    }
    CHECK_ERRNO(write(fd, out, 65508), EMSGSIZE, "65508 bytes: EMSGSIZE");
    CHECK_ERRNO(write(fd, out, 70000), EMSGSIZE, "70000 bytes: EMSGSIZE");
    CHECK_ERRNO(write(fd, t_nowhere, 10), EFAULT, "from nowhere: EFAULT");
    CHECK_EQ(write(fd, out, 4), 4, "the socket works on");
    CHECK_EQ(recv(fd, in, 4, 0), 4, "both ways");
    return t_end();
}
