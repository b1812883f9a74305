/* sendmmsg and recvmmsg: several messages in one call. */
#include "t.h"

/* test REF D-01 */
int main(void)
{
    char text[4][8] = {"zero", "one", "two", "three"}, data[4][8];
    struct iovec out[4], in[4];
    struct mmsghdr send_list[4], receive_list[4];

    t_begin();
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    memset(send_list, 0, sizeof send_list);
    memset(receive_list, 0, sizeof receive_list);
    for (int i = 0; i < 4; i++) {
        out[i] = (struct iovec){text[i], strlen(text[i])};
        in[i] = (struct iovec){data[i], sizeof data[i]};
        send_list[i].msg_hdr.msg_iov = &out[i];
        send_list[i].msg_hdr.msg_iovlen = 1;
        receive_list[i].msg_hdr.msg_iov = &in[i];
        receive_list[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK_EQ(sendmmsg(fd, send_list, 4, 0), 4, "four messages sent");
    for (int i = 0; i < 4; i++)
        CHECK_EQ(send_list[i].msg_len, strlen(text[i]), "message %d: its length", i);
    CHECK_EQ(recvmmsg(fd, receive_list, 4, 0, NULL), 4, "four received, waiting for all");
    for (int i = 0; i < 4; i++)
        CHECK(receive_list[i].msg_len == strlen(text[i]) && memcmp(data[i], text[i], strlen(text[i])) == 0,
              "message %d is right", i);
    CHECK_ERRNO(recvmmsg(fd, receive_list, 4, MSG_DONTWAIT, NULL), EAGAIN, "nothing there, MSG_DONTWAIT: EAGAIN");

    MUST(sendmmsg(fd, send_list, 1, 0));
    CHECK_EQ(recvmmsg(fd, receive_list, 4, MSG_WAITFORONE, NULL), 1, "MSG_WAITFORONE: one is enough");
    struct timespec timeout = {0, 0};
    MUST(sendmmsg(fd, send_list, 1, 0));
    CHECK_EQ(recvmmsg(fd, receive_list, 4, 0, &timeout), 1, "a timeout that is over after the first message");
    CHECK_EQ(sendmmsg(fd, send_list, 0, 0), 0, "no messages to send: 0");
    timeout = (struct timespec){0, -1};
    CHECK_ERRNO(recvmmsg(fd, receive_list, 4, 0, &timeout), EINVAL, "a timeout that is none: EINVAL");
    close(fd);

    fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(sendmmsg(fd, send_list, 4, 0), 4, "on a stream: four parts sent");
    CHECK_EQ(recv(fd, data[0], 8, MSG_WAITALL), 8, "they come as one stream");
    CHECK(memcmp(data[0], "zeroonet", 8) == 0, "in order");
    close(fd);
    return t_end();
}
