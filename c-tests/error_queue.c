/* MSG_ERRQUEUE: ICMP errors and local errors under IP_RECVERR, completions of MSG_ZEROCOPY, times of sending. */
#include <time.h>

#include <linux/errqueue.h>
#include <linux/net_tstamp.h>

#include "t.h"

struct report {
    ssize_t length;
    int flags;
    char data[128];
    struct sockaddr_in name;
    socklen_t name_length;
    struct sock_extended_err error;
    struct sockaddr_in offender;
    bool has_error, has_time;
};

static struct report take(int fd)
{
    struct report report = {0};
    char control[512];
    struct iovec vector = {report.data, sizeof report.data};
    struct msghdr message = {.msg_name = &report.name, .msg_namelen = sizeof report.name, .msg_iov = &vector,
                             .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    report.length = recvmsg(fd, &message, MSG_ERRQUEUE);
    if (report.length < 0)
        return report;
    report.flags = message.msg_flags;
    report.name_length = message.msg_namelen;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_level == SOL_IP && one->cmsg_type == IP_RECVERR) {
            struct {
                struct sock_extended_err error;
                struct sockaddr_in offender;
            } both;
            memcpy(&both, CMSG_DATA(one), sizeof both);
            report.has_error = one->cmsg_len == CMSG_LEN(sizeof both);
            report.error = both.error;
            report.offender = both.offender;
        }
        if (one->cmsg_level == SOL_SOCKET && one->cmsg_type == SCM_TIMESTAMPING) {
            struct timespec times[3];
            memcpy(times, CMSG_DATA(one), sizeof times);
            report.has_time = times[0].tv_sec > 0;
        }
    }
    return report;
}

/* A router may have no token left for its first errors. */
static bool refused_on_the_way(int fd, struct sockaddr_in to)
{
    for (int i = 0; i < 50; i++) {
        struct pollfd entry = {fd, 0, 0};
        MUST(sendto(fd, "hop", 3, 0, (struct sockaddr *)&to, sizeof to));
        if (poll(&entry, 1, 100) > 0)
            return (entry.revents & POLLERR) != 0;
    }
    return false;
}

static void icmp_errors(void)
{
    char data[16];
    int fd = MUST(t_udp(0));
    MUST(t_set_option(fd, SOL_IP, IP_RECVERR, 1));
    struct sockaddr_in to = t_address(T_PEER, PORT_CLOSED);
    MUST(sendto(fd, "abcd", 4, 0, (struct sockaddr *)&to, sizeof to));
    CHECK_MASK(fd, MASK_OUT_UDP | POLLERR, "unconnected with IP_RECVERR: an ICMP error shows as POLLERR");
    struct report report = take(fd);
    CHECK_EQ(report.length, 4, "MSG_ERRQUEUE gives what was sent");
    CHECK(memcmp(report.data, "abcd", 4) == 0, "byte for byte");
    CHECK_EQ(report.flags, MSG_ERRQUEUE, "msg_flags say MSG_ERRQUEUE");
    CHECK(t_is(report.name, T_PEER) && ntohs(report.name.sin_port) == PORT_CLOSED, "the name is where it went");
    CHECK(report.has_error, "there is a sock_extended_err");
    CHECK_EQ(report.error.ee_errno, ECONNREFUSED, "ECONNREFUSED");
    CHECK_EQ(report.error.ee_origin, SO_EE_ORIGIN_ICMP, "from ICMP");
    CHECK(report.error.ee_type == 3 && report.error.ee_code == 3, "port unreachable");
    CHECK(t_is(report.offender, T_PEER), "the offender is who said so");
    CHECK_ERRNO(recv(fd, data, sizeof data, MSG_DONTWAIT), EAGAIN, "with the report the pending error has gone");
    CHECK_MASK(fd, MASK_OUT_UDP, "and POLLERR");
    CHECK_ERRNO(recv(fd, data, sizeof data, MSG_ERRQUEUE), EAGAIN, "an empty queue is not waited for");
    to = t_address(T_UNREACH, 33434);
    CHECK(refused_on_the_way(fd, to), "a router says no");
    report = take(fd);
    CHECK(report.error.ee_type == 3 && report.error.ee_code == 1, "host unreachable");
    CHECK_EQ(report.error.ee_errno, EHOSTUNREACH, "EHOSTUNREACH");
    CHECK(t_is(report.offender, T_PEER) && t_is(report.name, T_UNREACH), "from the router, about the destination");
    CHECK(refused_on_the_way(fd, to), "another error");
    MUST(t_set_option(fd, SOL_IP, IP_RECVERR, 0));
    CHECK_ERRNO(recv(fd, data, sizeof data, MSG_ERRQUEUE), EAGAIN, "IP_RECVERR off empties the queue");
    close(fd);

    fd = MUST(t_udp(0));
    MUST(t_set_option(fd, SOL_IP, IP_RECVERR, 1));
    MUST(t_set_option(fd, SOL_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    static char big[3000];
    CHECK_ERRNO(send(fd, big, sizeof big, 0), EMSGSIZE, "too long for the path: EMSGSIZE");
    report = take(fd);
    CHECK_EQ(report.length, 0, "a local error quotes nothing");
    CHECK_EQ(report.error.ee_errno, EMSGSIZE, "EMSGSIZE");
    CHECK_EQ(report.error.ee_origin, SO_EE_ORIGIN_LOCAL, "from here");
    CHECK_EQ(report.error.ee_info, 1500, "with the MTU");
    CHECK(t_is(report.name, T_PEER) && ntohs(report.name.sin_port) == PORT_UDP_ECHO, "about the peer");
    CHECK_EQ(report.offender.sin_family, AF_UNSPEC, "and no offender");
    close(fd);
}

static void completions(int fd, const char *what)
{
    MUST(t_set_option(fd, SOL_SOCKET, SO_ZEROCOPY, 1));
    for (int i = 0; i < 3; i++)
        MUST(send(fd, "zero copy", 9, MSG_ZEROCOPY));
    unsigned next = 0;
    bool in_order = true;
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    while (next < 3 && t_now_ms() < deadline) {
        struct report report = take(fd);
        if (report.length < 0) {
            t_sleep_ms(1);
            continue;
        }
        /* How many reports they come in is up to chance. */
        in_order = in_order && report.error.ee_errno == 0 && report.error.ee_origin == SO_EE_ORIGIN_ZEROCOPY &&
                   report.error.ee_info == next && report.error.ee_data >= next;
        next = report.error.ee_data + 1;
    }
    CHECK(in_order, "%s: completions come in order", what);
    CHECK_EQ(next, 3, "%s: each MSG_ZEROCOPY send completes", what);
    MUST(t_set_option(fd, SOL_SOCKET, SO_ZEROCOPY, 0));
    MUST(send(fd, "copy", 4, MSG_ZEROCOPY));
    t_sleep_ms(20);
    CHECK_ERRNO(take(fd).length, EAGAIN, "%s: without SO_ZEROCOPY the flag is ignored", what);
}

static void times(void)
{
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    int flags = SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_RX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE |
                SOF_TIMESTAMPING_OPT_ID | SOF_TIMESTAMPING_OPT_TSONLY;
    MUST(t_set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, flags));
    for (unsigned i = 0; i < 2; i++) {
        MUST(send(fd, "tick", 4, 0));
        CHECK(t_wait(fd, 0) & POLLERR, "a time of sending shows as POLLERR");
        struct report report = take(fd);
        CHECK_EQ(report.length, 0, "OPT_TSONLY: no bytes");
        CHECK(report.has_time, "a time by software");
        CHECK_EQ(report.error.ee_errno, ENOMSG, "ENOMSG");
        CHECK_EQ(report.error.ee_origin, SO_EE_ORIGIN_TIMESTAMPING, "of timestamping");
        CHECK_EQ(report.error.ee_info, SCM_TSTAMP_SND, "of sending");
        CHECK_EQ(report.error.ee_data, i, "OPT_ID numbers them");
    }
    char data[16], control[256];
    struct iovec vector = {data, sizeof data};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control,
                             .msg_controllen = sizeof control};
    /* The kernel's stamping of what comes in may begin a little late. */
    for (int i = 0; i < 2; i++)
        CHECK(t_wait(fd, POLLIN) && recv(fd, data, sizeof data, 0) == 4, "the echo");
    MUST(send(fd, "tock", 4, 0));
    while (take(fd).length < 0)
        t_sleep_ms(1);
    CHECK_EQ(recvmsg(fd, &message, 0), 4, "the last echo");
    struct cmsghdr *one = CMSG_FIRSTHDR(&message);
    CHECK(one != NULL && one->cmsg_type == SCM_TIMESTAMPING && one->cmsg_len == CMSG_LEN(48), "has a time of receiving");
    close(fd);
}

/* The next report, which may still be on its way. */
static struct report await(int fd)
{
    struct report report = take(fd);
    for (long long deadline = t_now_ms() + T_PATIENCE_MS; report.length < 0 && t_now_ms() < deadline; report = take(fd))
        t_sleep_ms(1);
    return report;
}

static void is_time(struct report report, unsigned info, unsigned data, const char *what)
{
    CHECK(report.has_time && report.error.ee_errno == ENOMSG, "%s: a time", what);
    CHECK_EQ(report.error.ee_origin, SO_EE_ORIGIN_TIMESTAMPING, "%s: of timestamping", what);
    CHECK_EQ(report.error.ee_info, info, "%s: of its kind", what);
    CHECK_EQ(report.error.ee_data, data, "%s: of the last byte of the send", what);
}

/* Streams tell of the last byte of each send: when it was handed to the interface, when it left, when it was acknowledged. */
static void stream_times(void)
{
    int fd = MUST(t_tcp(0));
    int flags = SOF_TIMESTAMPING_TX_SCHED | SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_TX_ACK |
                SOF_TIMESTAMPING_SOFTWARE | SOF_TIMESTAMPING_OPT_ID;
    CHECK_ERRNO(t_set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, flags), EINVAL, "OPT_ID counts bytes of a connection");
    MUST(t_connect(fd, T_PEER, PORT_SILENT));
    MUST(send(fd, "before", 6, 0));
    /* Numbers begin with the first byte that is not acknowledged. */
    t_sleep_ms(50);
    MUST(t_set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, flags));
    for (unsigned i = 0; i < 2; i++) {
        MUST(send(fd, "tick tock", 9, 0));
        unsigned last = 9 * i + 8;
        struct report report = await(fd);
        is_time(report, SCM_TSTAMP_SCHED, last, "queued");
        CHECK(report.length > 9 + 20 + 20 && memcmp(report.data + report.length - 9, "tick tock", 9) == 0,
              "with the packet, headers and all");
        report = await(fd);
        is_time(report, SCM_TSTAMP_SND, last, "sent");
        CHECK(report.length > 9 + 20 + 20 && memcmp(report.data + report.length - 9, "tick tock", 9) == 0,
              "with the packet, headers and all");
        report = await(fd);
        is_time(report, SCM_TSTAMP_ACK, last, "acknowledged");
        CHECK(report.length == 9 && memcmp(report.data, "tick tock", 9) == 0, "with the bytes alone");
    }
    MUST(t_set_option(fd, SOL_SOCKET, SO_TIMESTAMPING, flags | SOF_TIMESTAMPING_OPT_TSONLY));
    MUST(send(fd, "tick tock", 9, 0));
    for (unsigned i = 0; i < 3; i++)
        CHECK_EQ(await(fd).length, 0, "OPT_TSONLY: no bytes");
    close(fd);
}

/* test REF D-02 */
/* test REF D-05 */
/* test RFC 9293 §3.9.1.8 (MUST-47) */
int main(void)
{
    t_begin();
    icmp_errors();
    int fd = MUST(t_udp(0));
    MUST(t_connect(fd, T_PEER, PORT_UDP_ECHO));
    completions(fd, "datagrams");
    char data[16];
    for (int i = 0; i < 4; i++)
        CHECK(t_wait(fd, POLLIN) && recv(fd, data, sizeof data, 0) > 0, "its echo");
    close(fd);
    fd = MUST(t_tcp(0));
    MUST(t_connect(fd, T_PEER, PORT_SILENT));
    completions(fd, "stream");
    close(fd);
    times();
    stream_times();
    return t_end();
}
