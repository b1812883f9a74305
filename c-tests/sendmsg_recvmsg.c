/* sendmsg and recvmsg on a connection and on datagrams: parts, names, flags that come back. */
#include "t.h"

/* test REF D-01 */
static void stream(void)
{
    char head[3], tail[16];
    struct sockaddr_in name;
    struct iovec out[2] = {{"hello ", 6}, {"world", 5}}, in[2] = {{head, sizeof head}, {tail, sizeof tail}};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 2};
    int fd = MUST(peer_connect(PORT_ECHO));
    CHECK_EQ(sendmsg(fd, &message, 0), 11, "stream: sendmsg of two parts");
    MUST(recv(fd, tail, 11, MSG_PEEK | MSG_WAITALL));
    message = (struct msghdr){
        .msg_iov = in, .msg_iovlen = 2, .msg_name = &name, .msg_namelen = sizeof name, .msg_flags = 0x7777};
    CHECK_EQ(recvmsg(fd, &message, 0), 11, "stream: recvmsg into two parts");
    CHECK(memcmp(head, "hel", 3) == 0 && memcmp(tail, "lo world", 8) == 0, "stream: filled in turn");
    CHECK_EQ(message.msg_namelen, 0, "stream: no name");
    CHECK_EQ(message.msg_controllen, 0, "stream: no control data");
    CHECK_EQ(message.msg_flags, 0, "stream: no flags");
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2};
    CHECK_ERRNO(recvmsg(fd, &message, MSG_DONTWAIT), EAGAIN, "stream: nothing there: EAGAIN");
    message.msg_iovlen = 1025;
    CHECK_ERRNO(sendmsg(fd, &message, 0), EMSGSIZE, "stream: 1025 parts to send: EMSGSIZE");
    CHECK_ERRNO(recvmsg(fd, &message, MSG_DONTWAIT), EMSGSIZE, "stream: 1025 parts to receive: EMSGSIZE");
    CHECK_ERRNO(sendmsg(fd, (void *)1, 0), EFAULT, "stream: header nowhere: EFAULT");
    message = (struct msghdr){0};
    CHECK_EQ(sendmsg(fd, &message, 0), 0, "stream: no parts: 0");
    close(fd);
}

static void datagram(void)
{
    char head[4], tail[4];
    struct sockaddr_in peer = t_address(T_PEER, PORT_UDP_ECHO), name = {0};
    struct iovec out[2] = {{"data", 4}, {"gram", 4}}, in[2] = {{head, 4}, {tail, 4}};
    struct msghdr message = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = out, .msg_iovlen = 2};
    int fd = MUST(t_udp(0));
    CHECK_EQ(sendmsg(fd, &message, 0), 8, "datagram: sendmsg of two parts to a name");
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 2, .msg_name = &name, .msg_namelen = sizeof name};
    CHECK_EQ(recvmsg(fd, &message, 0), 8, "datagram: recvmsg into two parts");
    CHECK(memcmp(head, "data", 4) == 0 && memcmp(tail, "gram", 4) == 0, "datagram: filled in turn");
    CHECK(t_is(name, T_PEER) && ntohs(name.sin_port) == PORT_UDP_ECHO, "datagram: the sender's name");
    CHECK_EQ(message.msg_namelen, sizeof name, "datagram: its length");
    CHECK_EQ(message.msg_flags, 0, "datagram: no flags");

    message = (struct msghdr){.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = out, .msg_iovlen = 2};
    MUST(sendmsg(fd, &message, 0));
    message = (struct msghdr){.msg_iov = in, .msg_iovlen = 1};
    CHECK_EQ(recvmsg(fd, &message, 0), 4, "datagram: half of it fits");
    CHECK_EQ(message.msg_flags, MSG_TRUNC, "datagram: MSG_TRUNC tells");
    CHECK_ERRNO(recvmsg(fd, &message, MSG_DONTWAIT), EAGAIN, "datagram: the rest is gone");

    message = (struct msghdr){.msg_name = &peer, .msg_namelen = 15, .msg_iov = out, .msg_iovlen = 2};
    CHECK_ERRNO(sendmsg(fd, &message, 0), EINVAL, "datagram: a short name: EINVAL");
    message = (struct msghdr){.msg_iov = out, .msg_iovlen = 2};
    CHECK_ERRNO(sendmsg(fd, &message, 0), EDESTADDRREQ, "datagram: no name: EDESTADDRREQ");
    close(fd);
}

int main(void)
{
    t_begin();
    stream();
    datagram();
    return t_end();
}
