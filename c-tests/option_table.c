/* Every option number of every level, read and set with good and bad values and lengths, on a socket of ours and on one
 * of the kernel's side by side: result, errno, length and value must be the same after each step. The kernel's socket
 * is made by a system call of its own, which no library sees, and lives on 127.0.0.1. */
#include <limits.h>
#include <netinet/ip_icmp.h>

#include "t.h"

/* A socket that the preloaded library has no part in. */
static int kernel_socket(int family, int type, int protocol)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(41L), "D"((long)family), "S"((long)type), "d"((long)protocol), "r"(r10)
                     : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = 198;
    register long x0 __asm__("x0") = family;
    register long x1 __asm__("x1") = type;
    register long x2 __asm__("x2") = protocol;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2) : "memory");
    long result = x0;
#endif
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return (int)result;
}

#define SOL_UDP_LEVEL 17
#define SOL_RAW_LEVEL 255
#define MOST 64

/* What of an answer is compared, where it is not all of it. */
enum part { ALL, LENGTH, NOTHING };

static const struct exception {
    int level, name;
    enum part part;
} exceptions[] = {
    {SOL_SOCKET, SO_RCVBUF, LENGTH},   /* grows with the path */
    {SOL_SOCKET, SO_SNDBUF, LENGTH},
    {SOL_SOCKET, SO_INCOMING_CPU, LENGTH},
    {SOL_SOCKET, SO_INCOMING_NAPI_ID, LENGTH},
    {SOL_SOCKET, SO_COOKIE, LENGTH},   /* unique */
    {SOL_SOCKET, SO_MEMINFO, LENGTH},
    {SOL_SOCKET, SO_PEERNAME, LENGTH},
    {SOL_SOCKET, SO_PEERSEC, NOTHING}, /* security modules */
    {SOL_SOCKET, 59, NOTHING},
    {SOL_SOCKET, SO_BINDTODEVICE, NOTHING}, /* the devices are others: the test below */
    {SOL_SOCKET, SO_BINDTOIFINDEX, NOTHING},
    {SOL_SOCKET, SO_ZEROCOPY, NOTHING},
    {SOL_SOCKET, SO_RCVLOWAT, LENGTH}, /* the limit is a setting */
    {SOL_SOCKET, SO_RESERVE_MEM, NOTHING}, /* needs memory accounting */
    {IPPROTO_IP, IP_MTU, LENGTH},      /* the path's */
    {IPPROTO_IP, 52, LENGTH},          /* IP_PROTOCOL, which gives a port */
    {IPPROTO_IP, IP_MULTICAST_IF, NOTHING}, /* addresses and groups: multicast.c */
    {IPPROTO_IP, 35, NOTHING},
    {IPPROTO_IP, 36, NOTHING},
    {IPPROTO_UDP, 100, NOTHING},       /* UDP_ENCAP needs IPsec */
    /* What only IPv6 packets could show: docs/exceptions.md, S-06. */
    {IPPROTO_IPV6, 6, NOTHING},
    {IPPROTO_IPV6, 17, NOTHING},
    {IPPROTO_IPV6, 24, LENGTH},
    {IPPROTO_IPV6, 27, NOTHING},
    {IPPROTO_IPV6, 28, NOTHING},
    {IPPROTO_IPV6, 50, NOTHING},
    {IPPROTO_IPV6, 54, NOTHING},
    {IPPROTO_IPV6, 55, NOTHING},
    {IPPROTO_IPV6, 57, NOTHING},
    {IPPROTO_IPV6, 59, NOTHING},
    {IPPROTO_IPV6, 61, NOTHING},
    {IPPROTO_IPV6, 72, NOTHING},
    {IPPROTO_IPV6, 80, NOTHING},
    {IPPROTO_IPV6, 81, NOTHING},
    {IPPROTO_TCP, TCP_MAXSEG, LENGTH},
    {IPPROTO_TCP, TCP_WINDOW_CLAMP, LENGTH},
    {IPPROTO_TCP, TCP_QUICKACK, LENGTH},
    {IPPROTO_TCP, TCP_INFO, LENGTH},
    {IPPROTO_TCP, TCP_CONGESTION, NOTHING},
    {IPPROTO_TCP, TCP_CC_INFO, NOTHING},
    {IPPROTO_TCP, TCP_MD5SIG, NOTHING},
    {IPPROTO_TCP, 19, NOTHING},        /* TCP_REPAIR and its kin */
    {IPPROTO_TCP, 20, NOTHING},
    {IPPROTO_TCP, 21, NOTHING},
    {IPPROTO_TCP, 22, NOTHING},
    {IPPROTO_TCP, 24, LENGTH},
    {IPPROTO_TCP, 29, NOTHING},
    {IPPROTO_TCP, 32, NOTHING},
    {IPPROTO_TCP, 33, NOTHING},
    {IPPROTO_TCP, 35, NOTHING},        /* TCP_ZEROCOPY_RECEIVE */
    {IPPROTO_TCP, 16, NOTHING},        /* thin streams; delays and timers of kernels from 6.15 on: see there */
    {IPPROTO_TCP, 17, NOTHING},
    {IPPROTO_TCP, 37, NOTHING},
    {IPPROTO_TCP, 44, NOTHING},
    {IPPROTO_TCP, 45, NOTHING},
    {IPPROTO_TCP, 46, NOTHING},
    {IPPROTO_TCP, 38, NOTHING},        /* TCP_AO_*: not in every kernel */
    {IPPROTO_TCP, 39, NOTHING},
    {IPPROTO_TCP, 40, NOTHING},
    {IPPROTO_TCP, 41, NOTHING},
    {IPPROTO_TCP, 42, NOTHING},
    {IPPROTO_TCP, 43, NOTHING},
};

static enum part part_of(int level, int name)
{
    for (size_t i = 0; i < sizeof exceptions / sizeof exceptions[0]; i++)
        if (exceptions[i].level == level && exceptions[i].name == name)
            return exceptions[i].part;
    return ALL;
}

struct answer {
    int result, error;
    socklen_t length;
    unsigned char value[MOST];
};

static struct answer get(int fd, int level, int name, socklen_t room)
{
    struct answer answer = {.length = room};
    memset(answer.value, 0xa5, sizeof answer.value);
    errno = 0;
    answer.result = getsockopt(fd, level, name, answer.value, &answer.length);
    answer.error = answer.result ? errno : 0;
    return answer;
}

static struct answer set(int fd, int level, int name, const void *value, socklen_t length)
{
    struct answer answer = {0};
    errno = 0;
    answer.result = setsockopt(fd, level, name, value, length);
    answer.error = answer.result ? errno : 0;
    return answer;
}

static bool equal(const struct answer *a, const struct answer *b, enum part part)
{
    if (a->result != b->result || a->error != b->error)
        return false;
    if (a->result != 0)
        return true;
    return a->length == b->length && (part == LENGTH || memcmp(a->value, b->value, sizeof a->value) == 0);
}

static void show(const char *whose, const struct answer *answer)
{
    char text[160] = "";
    if (answer->result == 0)
        for (socklen_t i = 0; i < answer->length && i < 24; i++)
            sprintf(text + strlen(text), " %02x", answer->value[i]);
    t_print("#     %s: %d %s, length %u:%s\n", whose, answer->result,
            answer->error ? strerrorname_np(answer->error) : "", answer->length, text);
}

static int differences;

static void differ(const char *what, int level, int name, const char *how, const struct answer *ours,
                   const struct answer *kernels)
{
    t_print("#   %s: level %d option %d %s\n", what, level, name, how);
    show("ours", ours);
    show("kernel", kernels);
    differences++;
}

static void one_option(const char *what, int ours, int kernels, int level, int name)
{
    static const socklen_t rooms[] = {0, 1, 3, 4, 8, 64};
    static const int values[] = {0, 1, 2, 5, 255, 256, 100000, -1, -2, INT_MAX};
    static const socklen_t lengths[] = {0, 1, 3, 8, 12, 16, 64};
    enum part part = part_of(level, name);
    int before = differences;
    char how[64];
    if (part == NOTHING)
        return;
    for (size_t i = 0; i < sizeof rooms / sizeof rooms[0] && differences == before; i++) {
        struct answer mine = get(ours, level, name, rooms[i]), theirs = get(kernels, level, name, rooms[i]);
        sprintf(how, "read with room for %u", rooms[i]);
        if (!equal(&mine, &theirs, part))
            differ(what, level, name, how, &mine, &theirs);
    }
    for (size_t i = 0; i < sizeof values / sizeof values[0] + sizeof lengths / sizeof lengths[0]; i++) {
        unsigned char value[MOST] = {0};
        bool plain = i < sizeof values / sizeof values[0];
        int number = plain ? values[i] : 1;
        socklen_t length = plain ? sizeof number : lengths[i - sizeof values / sizeof values[0]];
        memcpy(value, &number, sizeof number);
        struct answer mine = set(ours, level, name, value, length), theirs = set(kernels, level, name, value, length);
        sprintf(how, "set to %d with length %u", number, length);
        if (!equal(&mine, &theirs, ALL))
            differ(what, level, name, how, &mine, &theirs);
        mine = get(ours, level, name, MOST);
        theirs = get(kernels, level, name, MOST);
        strcat(how, ", read");
        if (!equal(&mine, &theirs, part))
            differ(what, level, name, how, &mine, &theirs);
        if (differences >= before + 3)
            return;
    }
    struct answer mine = set(ours, level, name, t_nowhere, 4), theirs = set(kernels, level, name, t_nowhere, 4);
    if (!equal(&mine, &theirs, ALL))
        differ(what, level, name, "set from nowhere", &mine, &theirs);
    mine = get(ours, level, name, (socklen_t)-1);
    theirs = get(kernels, level, name, (socklen_t)-1);
    if (!equal(&mine, &theirs, part))
        differ(what, level, name, "read with a negative length", &mine, &theirs);
}

enum state { FRESH, CONNECTED, LISTENING };
static const char *const state_names[] = {"fresh", "connected", "listening"};

static int kernel_listener;
static int kernel_port;

static void prepare(int fd, int type, bool of_kernel, enum state state)
{
    if (state == LISTENING) {
        MUST(t_bind(fd, of_kernel ? "127.0.0.1" : T_LOCAL, 0));
        MUST(listen(fd, 4));
    }
    if (state == CONNECTED) {
        MUST(t_connect(fd, of_kernel ? "127.0.0.1" : T_PEER,
                       type == SOCK_STREAM ? (of_kernel ? kernel_port : PORT_SILENT) : 9));
        if (type == SOCK_STREAM && of_kernel)
            close(MUST(accept(kernel_listener, NULL, NULL)));
    }
}

static const struct {
    const char *text;
    int number, most;
} levels[] = {
    {"SOL_SOCKET", SOL_SOCKET, 90},       {"IPPROTO_IP", IPPROTO_IP, 60},   {"IPPROTO_TCP", IPPROTO_TCP, 50},
    {"IPPROTO_UDP", SOL_UDP_LEVEL, 110},  {"SOL_RAW", SOL_RAW_LEVEL, 5},
    {"IPPROTO_IPV6", IPPROTO_IPV6, 82},   {"level 199", 199, 3},
};

static void table(const char *text, int family, int type, int protocol, enum state state)
{
    for (size_t i = 0; i < sizeof levels / sizeof levels[0]; i++) {
        int before = differences;
        char what[96];
        sprintf(what, "%s, %s", text, state_names[state]);
        for (int name = 0; name <= levels[i].most; name++) {
            int ours = MUST(socket(family, type, protocol)), kernels = MUST(kernel_socket(family, type, protocol));
            prepare(ours, type, false, state);
            prepare(kernels, type, true, state);
            one_option(what, ours, kernels, levels[i].number, name);
            close(ours);
            close(kernels);
        }
        CHECK(differences == before, "%s: all options of %s", what, levels[i].text);
    }
}

/* test REF D-06 */
int main(void)
{
    t_begin();
    kernel_listener = MUST(kernel_socket(AF_INET, SOCK_STREAM, 0));
    MUST(t_bind(kernel_listener, "127.0.0.1", 0));
    MUST(listen(kernel_listener, 64));
    kernel_port = t_local_port(kernel_listener);
    table("stream", AF_INET, SOCK_STREAM, 0, FRESH);
    table("stream", AF_INET, SOCK_STREAM, 0, LISTENING);
    table("datagram", AF_INET, SOCK_DGRAM, 0, FRESH);
    table("datagram", AF_INET, SOCK_DGRAM, 0, CONNECTED);
    table("raw ICMP", AF_INET, SOCK_RAW, IPPROTO_ICMP, FRESH);
    table("raw UDP", AF_INET, SOCK_RAW, IPPROTO_UDP, FRESH);
    table("stream of AF_INET6", AF_INET6, SOCK_STREAM, 0, FRESH);
    table("datagram of AF_INET6", AF_INET6, SOCK_DGRAM, 0, FRESH);
    table("stream", AF_INET, SOCK_STREAM, 0, CONNECTED);
    return t_end();
}
