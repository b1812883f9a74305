/* socket(): the answers to families, types and protocols that do not exist or do not fit. */
#include <linux/capability.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "t.h"

/* A process without rights: raw sockets are refused, once the protocol was found. */
/* test REF D-04 */
static void unprivileged(void)
{
    int status = -1;
    pid_t child = MUST(fork());
    if (child == 0) {
        struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
        struct __user_cap_data_struct sets[2];
        memset(sets, 0, sizeof sets);
        if (syscall(SYS_capset, &header, sets) != 0)
            _exit(1);
        if (socket(AF_INET, SOCK_RAW, 0) != -1 || errno != EPROTONOSUPPORT)
            _exit(2);
        if (socket(AF_INET, SOCK_RAW, IPPROTO_ICMP) != -1 || errno != EPERM)
            _exit(3);
        if (socket(AF_INET, SOCK_RAW, IPPROTO_RAW) != -1 || errno != EPERM)
            _exit(4);
        _exit(socket(AF_INET, SOCK_DGRAM, 0) >= 0 ? 0 : 5);
    }
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0, "raw sockets without CAP_NET_RAW: EPERM");
}

/* test REF S-01 */
/* test REF S-02 */
int main(void)
{
    static const struct {
        int family, type, protocol, error;
        const char *rule;
    } refused[] = {
        {AF_INET, SOCK_STREAM, IPPROTO_UDP, EPROTONOSUPPORT, "stream with UDP"},
        {AF_INET, SOCK_DGRAM, IPPROTO_TCP, EPROTONOSUPPORT, "datagram with TCP"},
        {AF_INET, SOCK_STREAM, IPPROTO_ICMP, EPROTONOSUPPORT, "stream with ICMP"},
        {AF_INET, SOCK_STREAM, 255, EPROTONOSUPPORT, "stream with protocol 255"},
        {AF_INET, SOCK_STREAM, 256, EPROTONOSUPPORT, "stream with protocol 256"},
        {AF_INET, SOCK_STREAM, -1, EINVAL, "protocol -1"},
        {AF_INET, SOCK_DGRAM, -1, EINVAL, "datagram with protocol -1"},
        {AF_INET, SOCK_STREAM, 263, EINVAL, "protocol above the last one"},
        {AF_INET, SOCK_RAW, 0, EPROTONOSUPPORT, "raw without a protocol"},
        {AF_INET, 0, 0, ESOCKTNOSUPPORT, "type 0"},
        {AF_INET, SOCK_RDM, 0, ESOCKTNOSUPPORT, "type 4, RDM"},
        {AF_INET, SOCK_SEQPACKET, 0, ESOCKTNOSUPPORT, "type 5, SEQPACKET"},
        {AF_INET, 11, 0, EINVAL, "type 11"},
        {AF_INET, 15, 0, EINVAL, "type 15"},
        {AF_INET, -1, 0, EINVAL, "type -1"},
        {AF_INET, SOCK_STREAM | 0x10, 0, EINVAL, "flag bit 0x10"},
        {AF_INET, SOCK_STREAM | 0x10000, 0, EINVAL, "flag bit 0x10000"},
        {AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | 0x100, 0, EINVAL, "flag bit 0x100 beside a good one"},
        {AF_INET6, SOCK_STREAM, IPPROTO_UDP, EPROTONOSUPPORT, "IPv6 stream with UDP"},
        {AF_INET6, SOCK_DGRAM, IPPROTO_TCP, EPROTONOSUPPORT, "IPv6 datagram with TCP"},
        {AF_INET6, SOCK_SEQPACKET, 0, ESOCKTNOSUPPORT, "IPv6 type 5"},
        {-1, SOCK_STREAM, 0, EAFNOSUPPORT, "family -1"},
        {AF_UNSPEC, SOCK_STREAM, 0, EAFNOSUPPORT, "family 0"},
        {45, SOCK_STREAM, 0, EAFNOSUPPORT, "family 45"},
        {46, SOCK_STREAM, 0, EAFNOSUPPORT, "the first family after the last one"},
        {999, SOCK_STREAM, 0, EAFNOSUPPORT, "family 999"},
        {999, SOCK_STREAM | 0x10, 0, EINVAL, "a bad flag is found before a bad family"},
        {999, 99, 0, EINVAL, "a bad type is found with the flags, before a bad family"},
    };
    static const struct {
        int family, type, protocol;
        const char *rule;
    } accepted[] = {
        {AF_INET, SOCK_STREAM, 0, "stream"},
        {AF_INET, SOCK_STREAM, IPPROTO_TCP, "stream with TCP"},
        {AF_INET, SOCK_DGRAM, 0, "datagram"},
        {AF_INET, SOCK_DGRAM, IPPROTO_UDP, "datagram with UDP"},
        {AF_INET6, SOCK_STREAM, 0, "IPv6 stream"},
        {AF_INET6, SOCK_STREAM, IPPROTO_TCP, "IPv6 stream with TCP"},
        {AF_INET6, SOCK_DGRAM, IPPROTO_UDP, "IPv6 datagram with UDP"},
        {AF_UNIX, SOCK_STREAM, 0, "AF_UNIX stream"},
        {AF_UNIX, SOCK_SEQPACKET, 0, "AF_UNIX seqpacket"},
        {AF_NETLINK, SOCK_RAW, 0, "AF_NETLINK"},
    };

    t_begin();
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        CHECK_ERRNO(socket(refused[i].family, refused[i].type, refused[i].protocol), refused[i].error,
                    "%s: %s", refused[i].rule, strerrorname_np(refused[i].error));
    for (size_t i = 0; i < sizeof accepted / sizeof accepted[0]; i++) {
        int fd = socket(accepted[i].family, accepted[i].type, accepted[i].protocol);
        CHECK(fd >= 0, "%s is accepted", accepted[i].rule);
        CHECK_EQ(close(fd), 0, "and closed");
    }
    unprivileged();
    return t_end();
}
