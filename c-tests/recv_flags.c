/* Flags of recv and send on a connection. */
#include "t.h"

/* test REF D-02 */
int main(void)
{
    char data[32];

    t_begin();
    int control, fd = peer_pair(&control);
    CHECK_ERRNO(recv(fd, data, 1, MSG_DONTWAIT), EAGAIN, "MSG_DONTWAIT with nothing there: EAGAIN");
    CHECK_ERRNO(recv(fd, data, 1, MSG_DONTWAIT | MSG_PEEK), EAGAIN, "MSG_PEEK with nothing there: EAGAIN");
    MUST(peer_ask(control, "SEND 8"));
    CHECK_EQ(recv(fd, data, 8, MSG_PEEK | MSG_WAITALL), 8, "MSG_PEEK sees eight bytes");
    CHECK_EQ(recv(fd, data, 3, MSG_PEEK), 3, "MSG_PEEK again, three of them");
    CHECK_EQ(recv(fd, data, sizeof data, MSG_DONTWAIT), 8, "they are still there");
    CHECK_EQ(pattern_match((unsigned char *)data, 8, 0), 8, "and right");

    MUST(peer_ask(control, "SEND 4"));
    MUST(peer_tell(control, "SEND 4"));
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL), 8, "MSG_WAITALL waits for all");
    MUST(peer_number(control));
    CHECK_EQ(pattern_match((unsigned char *)data, 8, 8), 8, "in order");

    MUST(peer_ask(control, "SEND 8"));
    CHECK(t_wait(fd, POLLIN) & POLLIN, "eight more");
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL | MSG_PEEK), 8, "all there");
    CHECK_EQ(recv(fd, NULL, 5, MSG_TRUNC), 5, "MSG_TRUNC throws five bytes away");
    CHECK_EQ(recv(fd, data, sizeof data, 0), 3, "three are left");
    CHECK_EQ(pattern_match((unsigned char *)data, 3, 21), 3, "the last three");

    MUST(t_set_timeout(fd, SO_RCVTIMEO, 150));
    MUST(peer_ask(control, "SEND 5"));
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL), 5, "MSG_WAITALL under SO_RCVTIMEO: what came");
    CHECK_ERRNO(recv(fd, data, 8, MSG_WAITALL), EAGAIN, "then EAGAIN");
    MUST(t_set_timeout(fd, SO_RCVTIMEO, 0));

    CHECK_ERRNO(recv(fd, data, 1, MSG_OOB), EINVAL, "MSG_OOB without urgent data: EINVAL");
    CHECK_ERRNO(recv(fd, data, 1, MSG_ERRQUEUE), EAGAIN, "MSG_ERRQUEUE with an empty queue: EAGAIN");

    CHECK_EQ(send(fd, "a", 1, MSG_DONTWAIT), 1, "send with MSG_DONTWAIT");
    CHECK_EQ(send(fd, "b", 1, MSG_NOSIGNAL), 1, "send with MSG_NOSIGNAL");
    CHECK_EQ(send(fd, "c", 1, MSG_MORE), 1, "send with MSG_MORE");
    CHECK_EQ(send(fd, "d", 1, 0), 1, "send that completes it");

    MUST(peer_ask(control, "SEND 4"));
    MUST(peer_ask(control, "FIN"));
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL), 4, "MSG_WAITALL ends at the FIN");
    CHECK_EQ(recv(fd, data, 8, MSG_WAITALL), 0, "then 0");
    CHECK_EQ(recv(fd, data, 8, MSG_PEEK), 0, "MSG_PEEK too");
    close(fd);
    close(control);
    return t_end();
}
