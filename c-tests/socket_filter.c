/* Classic BPF programs on sockets: what is taken for one, what it lets through, how it is read, locked and detached;
 * the program that picks a socket of an SO_REUSEPORT group; and IP_MINTTL. */
#include <linux/filter.h>

#include "t.h"

#ifndef SO_ATTACH_REUSEPORT_CBPF
#define SO_ATTACH_REUSEPORT_CBPF 51
#endif
#ifndef SO_DETACH_REUSEPORT_BPF
#define SO_DETACH_REUSEPORT_BPF 68
#endif

static int attach(int fd, int option, const struct sock_filter *code, unsigned short count)
{
    struct sock_fprog program = {count, (struct sock_filter *)code};
    return setsockopt(fd, SOL_SOCKET, option, &program, sizeof program);
}

#define ATTACH(fd, ...)                                                                                                \
    ({                                                                                                                 \
        const struct sock_filter code_[] = {__VA_ARGS__};                                                              \
        attach(fd, SO_ATTACH_FILTER, code_, sizeof code_ / sizeof code_[0]);                                           \
    })

static void refusals(void)
{
    int fd = MUST(t_udp(0));
    int one = 1;
    CHECK_ERRNO(ATTACH(fd, BPF_STMT(BPF_LD | BPF_IMM, 1)), EINVAL, "a program without an end");
    CHECK_ERRNO(ATTACH(fd, BPF_STMT(BPF_ALU | BPF_DIV | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 1)), EINVAL, "a division by 0");
    CHECK_ERRNO(ATTACH(fd, BPF_STMT(BPF_LD | BPF_MEM, 0), BPF_STMT(BPF_RET | BPF_A, 0)), EINVAL,
                "memory that nobody wrote");
    CHECK_ERRNO(ATTACH(fd, BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0), BPF_STMT(BPF_RET | BPF_K, 1)), EINVAL,
                "a jump out of the program");
    CHECK_ERRNO(attach(fd, SO_ATTACH_FILTER, NULL, 1), EINVAL, "no program");
    CHECK_ERRNO(attach(fd, SO_ATTACH_FILTER, t_nowhere, 1), EFAULT, "a program nowhere");
    CHECK_ERRNO(attach(fd, SO_ATTACH_FILTER, t_nowhere, 0), EINVAL, "none of no length");
    CHECK_ERRNO(attach(fd, SO_ATTACH_FILTER, t_nowhere, 4097), EINVAL, "one that is too long");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &one, sizeof one), EINVAL, "a short struct sock_fprog");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one), ENOENT, "nothing to detach");

    struct sock_filter read[4] = {{0}};
    socklen_t length = 4;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, read, &length), 0, "SO_GET_FILTER without one");
    CHECK_EQ(length, 0, "gives none");
    CHECK_EQ(ATTACH(fd, BPF_STMT(BPF_LD | BPF_W | BPF_LEN, 0), BPF_STMT(BPF_RET | BPF_A, 0)), 0, "a program");
    length = 0;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, read, &length), 0, "SO_GET_FILTER without room");
    CHECK_EQ(length, 2, "tells the number of instructions");
    length = 1;
    CHECK_ERRNO(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, read, &length), EINVAL, "with too little room");
    length = 4;
    CHECK_EQ(getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, read, &length), 0, "with room");
    CHECK(length == 2 && read[0].code == (BPF_LD | BPF_W | BPF_LEN) && read[1].code == (BPF_RET | BPF_A), "gives it");
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof one), 0, "SO_LOCK_FILTER");
    CHECK_ERRNO(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one), EPERM, "then none goes");
    CHECK_ERRNO(ATTACH(fd, BPF_STMT(BPF_RET | BPF_K, 1)), EPERM, "and none comes");
    close(fd);
}

/* The first byte of the payload decides; offsets count from the UDP header. */
static void datagrams(void)
{
    char data[64];
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    CHECK_EQ(ATTACH(fd, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 8), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 1, 0),
                    BPF_STMT(BPF_RET | BPF_K, 0), BPF_STMT(BPF_RET | BPF_K, 8 + 3)),
             0, "3 bytes of what begins with y");
    MUST(send(fd, "no", 2, 0));
    MUST(send(fd, "yes, all of it", 14, 0));
    CHECK_EQ(recv(fd, data, sizeof data, 0), 3, "one comes, cut");
    CHECK(memcmp(data, "yes", 3) == 0, "the right one");
    CHECK_ERRNO(recv(fd, data, sizeof data, MSG_DONTWAIT), EAGAIN, "the other does not");
    CHECK_EQ(ATTACH(fd, BPF_STMT(BPF_LD | BPF_B | BPF_ABS, SKF_NET_OFF + 9), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 1),
                    BPF_STMT(BPF_RET | BPF_K, 0xffff), BPF_STMT(BPF_RET | BPF_K, 0)),
             0, "by the protocol in the IP header");
    MUST(send(fd, "whole", 5, 0));
    CHECK_EQ(recv(fd, data, sizeof data, 0), 5, "a datagram of UDP");
    int one = 1;
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one), 0, "detached");
    MUST(send(fd, "no", 2, 0));
    CHECK_EQ(recv(fd, data, sizeof data, 0), 2, "everything comes");
    close(fd);
}

/* A listener whose program wants one port of the sender's only: who is refused never gets an answer. */
static void streams(void)
{
    char data[8];
    int control = MUST(peer_connect(PORT_COMMAND));
    int listener = MUST(t_tcp(0));
    MUST(t_bind(listener, T_LOCAL, 0));
    CHECK_EQ(ATTACH(listener, BPF_STMT(BPF_RET | BPF_K, 0xffff)), 0, "a program that wants all");
    MUST(listen(listener, 4));
    int fd = MUST(t_tcp(0));
    MUST(t_connect(fd, T_PEER, PORT_ECHO));
    /* From the TCP header on: 20 or 32 bytes of header, so that 33 leaves one byte of payload, and the rest comes again
     * and again until the program is gone. */
    CHECK_EQ(ATTACH(fd, BPF_STMT(BPF_RET | BPF_K, 33)), 0, "one byte of each segment");
    MUST(send(fd, "abcd", 4, 0));
    CHECK_EQ(recv(fd, data, 1, 0), 1, "the first byte");
    CHECK(data[0] == 'a', "is the first");
    int one = 1;
    CHECK_EQ(setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &one, sizeof one), 0, "detached");
    CHECK_EQ(recv(fd, data, 3, MSG_WAITALL), 3, "the rest is sent again");
    CHECK(memcmp(data, "bcd", 3) == 0, "nothing is lost");

    /* The peer's TTL is 64. */
    struct timeval moment = {0, 50000};
    int ttl = 65;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment));
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_MINTTL, &ttl, sizeof ttl), 0, "IP_MINTTL above the peer's");
    MUST(send(fd, "e", 1, 0));
    CHECK_ERRNO(recv(fd, data, 1, 0), EAGAIN, "nothing is heard");
    ttl = 64;
    CHECK_EQ(setsockopt(fd, IPPROTO_IP, IP_MINTTL, &ttl, sizeof ttl), 0, "IP_MINTTL of the peer's");
    moment.tv_usec = 0;
    MUST(setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &moment, sizeof moment));
    CHECK_EQ(recv(fd, data, 1, 0), 1, "the answer is sent again");
    close(fd);
    close(listener);
    close(control);
}

/* Two sockets of a group: the program says which gets a datagram, by its first byte. */
static void groups(void)
{
    char data[8];
    int one = 1, member[2], port = 0;
    const struct sock_filter code[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_STMT(BPF_RET | BPF_A, 0)};
    int fd = MUST(t_udp(0));
    CHECK_ERRNO(attach(fd, SO_ATTACH_REUSEPORT_CBPF, code, 2), EINVAL, "without a group");
    close(fd);
    int control = MUST(peer_connect(PORT_COMMAND));
    for (int i = 0; i < 2; i++) {
        member[i] = MUST(t_udp(0));
        MUST(setsockopt(member[i], SOL_SOCKET, SO_REUSEPORT, &one, sizeof one));
        MUST(t_bind(member[i], T_LOCAL, port));
        port = t_local_port(member[i]);
    }
    const struct sock_filter last[] = {BPF_STMT(BPF_RET | BPF_K, 1)}, first[] = {BPF_STMT(BPF_RET | BPF_K, 0)};
    CHECK_EQ(attach(member[0], SO_ATTACH_REUSEPORT_CBPF, last, 1), 0, "the second gets all");
    for (int i = 0; i < 4; i++) {
        MUST(peer_ask(control, "UDPSEND %s %d 4", T_LOCAL, port));
        CHECK_EQ(recv(member[1], data, sizeof data, 0), 4, "datagram %d", i);
    }
    CHECK_EQ(attach(member[0], SO_ATTACH_REUSEPORT_CBPF, first, 1), 0, "the first gets all");
    for (int i = 0; i < 4; i++) {
        MUST(peer_ask(control, "UDPSEND %s %d 4", T_LOCAL, port));
        CHECK_EQ(recv(member[0], data, sizeof data, 0), 4, "datagram %d", i);
    }
    CHECK_EQ(setsockopt(member[0], SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &one, sizeof one), 0, "detached");
    close(member[0]);
    close(member[1]);
    close(control);
}

/* test REF D-06 */
int main(void)
{
    t_begin();
    refusals();
    datagrams();
    streams();
    groups();
    return t_end();
}
