/* TCP_INQ tells with what is read how much is left; SO_MEMINFO has nine numbers. */
#include <linux/sock_diag.h>
#include <netinet/tcp.h>

#include "t.h"

#ifndef TCP_INQ
#define TCP_INQ 36
#endif

/* Reads `length` bytes; gives the control message's number, or -1. */
static int hint_after(int fd, char *data, size_t length)
{
    char control[64];
    struct iovec part = {data, length};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int hint = -1;

    CHECK_EQ(recvmsg(fd, &message, 0), (ssize_t)length, "recvmsg");
    struct cmsghdr *first = CMSG_FIRSTHDR(&message);
    if (first && first->cmsg_level == IPPROTO_TCP && first->cmsg_type == TCP_INQ)
        memcpy(&hint, CMSG_DATA(first), sizeof hint);
    return hint;
}

/* test REF T-11 */
int main(void)
{
    char data[16];
    unsigned memory[SK_MEMINFO_VARS] = {0};
    socklen_t length = sizeof memory;
    int value = 2, control;

    t_begin();
    int fd = peer_pair(&control);
    CHECK_ERRNO(setsockopt(fd, IPPROTO_TCP, TCP_INQ, &value, sizeof value), EINVAL, "neither 0 nor 1");
    MUST(peer_ask(control, "SEND 12"));
    MUST(recv(fd, data, 12, MSG_PEEK | MSG_WAITALL));
    CHECK_EQ(hint_after(fd, data, 3), -1, "not asked for");
    value = 1;
    CHECK_EQ(setsockopt(fd, IPPROTO_TCP, TCP_INQ, &value, sizeof value), 0, "TCP_INQ on");
    CHECK_EQ(hint_after(fd, data, 4), 5, "five are left");
    CHECK_EQ(hint_after(fd, data, 5), 0, "none is left");
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_MEMINFO, memory, &length), 0, "SO_MEMINFO");
    CHECK_EQ((int)length, (int)sizeof memory, "nine numbers");
    socklen_t size = sizeof value;
    MUST(getsockopt(fd, SOL_SOCKET, SO_RCVBUF, &value, &size));
    CHECK_EQ((int)memory[SK_MEMINFO_RCVBUF], value, "SK_MEMINFO_RCVBUF is SO_RCVBUF");
    return t_end();
}
