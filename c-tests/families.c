/* Unrelated programs on one address: who may bind beside whom (SO_REUSEADDR, SO_REUSEPORT), and over whom of them the
 * connections and datagrams spread, and that all hear what is for a group or for everybody. Each is this program run
 * anew, on its own stack where there is one in the process. */
#include "t.h"

#define PORT 6100
#define MANY 24
#define GROUP "239.7.7.7"

struct other {
    int in, out;
    pid_t pid;
};

/* ---- the other program: one command a line on 0, one number a line on 1 ---- */

static int served = -1;
static int accepted[8 * MANY];
static int accepted_count;

static long long make(const char *options, int type, int port)
{
    if (served >= 0)
        close(served);
    served = socket(AF_INET, type | SOCK_NONBLOCK, 0);
    int on = 1;
    if (strchr(options, 'a'))
        setsockopt(served, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (strchr(options, 'p'))
        setsockopt(served, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    return t_bind(served, "0.0.0.0", port) == 0 ? t_local_port(served) : -errno;
}

/* Takes what has come until nothing more is there. */
static long long take(void)
{
    int type = t_option(served, SOL_SOCKET, SO_TYPE), count = 0;
    char byte;
    for (;;) {
        int fd = -1;
        if (type == SOCK_STREAM)
            fd = accept(served, NULL, NULL);
        else if (recv(served, &byte, 1, 0) < 0)
            return count;
        if (type == SOCK_STREAM && fd < 0)
            return count;
        if (fd >= 0 && accepted_count < (int)(sizeof accepted / sizeof accepted[0]))
            accepted[accepted_count++] = fd;
        count++;
    }
}

static long long group(int name)
{
    struct ip_mreq request = {t_address(GROUP, 0).sin_addr, t_address(T_LOCAL, 0).sin_addr};
    /* What other programs have joined is not for us. */
    t_set_option(served, SOL_IP, IP_MULTICAST_ALL, 0);
    return setsockopt(served, SOL_IP, name, &request, sizeof request) == 0 ? 0 : -errno;
}

static long long group_source(int name)
{
    struct in_addr own = t_address(T_LOCAL, 0).sin_addr;
    struct ip_mreq_source request = {t_address(GROUP, 0).sin_addr, own, own};
    return setsockopt(served, SOL_IP, name, &request, sizeof request) == 0 ? 0 : -errno;
}

static long long send_one(const char *ip, int port, int size)
{
    static char data[4096];
    struct sockaddr_in to = t_address(ip, port);
    t_set_option(served, SOL_SOCKET, SO_BROADCAST, 1);
    return sendto(served, data, (size_t)size, 0, (struct sockaddr *)&to, sizeof to) == size ? 0 : -errno;
}

static long long answer(const char *line)
{
    char options[8] = "", ip[32] = "";
    int port = 0, size = 0;
    if (sscanf(line, "tcp %7s %d", options, &port) == 2)
        return make(options, SOCK_STREAM, port);
    if (sscanf(line, "udp %7s %d", options, &port) == 2)
        return make(options, SOCK_DGRAM, port);
    if (strcmp(line, "listen") == 0)
        return listen(served, 2 * MANY) == 0 ? 0 : -errno;
    if (strcmp(line, "take") == 0)
        return take();
    if (strcmp(line, "write") == 0) {
        int good = 0;
        for (int i = 0; i < accepted_count; i++) {
            good += write(accepted[i], "x", 1) == 1;
            close(accepted[i]);
        }
        accepted_count = 0;
        return good;
    }
    if (strcmp(line, "join") == 0)
        return group(IP_ADD_MEMBERSHIP);
    if (strcmp(line, "leave") == 0)
        return group(IP_DROP_MEMBERSHIP);
    if (strcmp(line, "block") == 0)
        return group_source(IP_BLOCK_SOURCE);
    if (sscanf(line, "loop %d", &port) == 1)
        return t_set_option(served, SOL_IP, IP_MULTICAST_LOOP, port);
    if (sscanf(line, "send %31s %d %d", ip, &port, &size) == 3)
        return send_one(ip, port, size);
    if (strcmp(line, "close") == 0) {
        close(served);
        served = -1;
        return 0;
    }
    return -1000;
}

static int be_the_other(void)
{
    char line[64];
    alarm(T_DEADLINE_SECONDS);
    signal(SIGPIPE, SIG_IGN);
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        printf("%lld\n", answer(line));
        fflush(stdout);
    }
    return 0;
}

/* ---- the test ---- */

static struct other start(void)
{
    int to[2], from[2];
    struct other other;
    MUST(pipe2(to, O_CLOEXEC));
    MUST(pipe2(from, O_CLOEXEC));
    other.pid = MUST(fork());
    if (other.pid == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        execl("/proc/self/exe", "families", "other", NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    other.out = to[1];
    other.in = from[0];
    return other;
}

__attribute__((format(printf, 2, 3))) static long long ask(const struct other *other, const char *format, ...)
{
    char text[64];
    size_t length = 0;
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text - 1, format, arguments);
    va_end(arguments);
    text[size++] = '\n';
    if (write(other->out, text, (size_t)size) != size)
        return -2000;
    while (length < sizeof text - 1 && read(other->in, text + length, 1) == 1 && text[length] != '\n')
        length++;
    text[length] = 0;
    return length > 0 ? atoll(text) : -3000;
}

static void end(struct other *other, int how)
{
    int status;
    kill(other->pid, how);
    waitpid(other->pid, &status, 0);
    close(other->in);
    close(other->out);
}

/* Both together, until that many have come. */
static void take_all(struct other *two[2], int wanted, long long counts[2])
{
    long long deadline = t_now_ms() + T_PATIENCE_MS;
    counts[0] = counts[1] = 0;
    while (counts[0] + counts[1] < wanted && t_now_ms() < deadline) {
        for (int i = 0; i < 2; i++)
            if (two[i])
                counts[i] += ask(two[i], "take");
        t_sleep_ms(1);
    }
}

static void binds(struct other *one, struct other *two)
{
    static const struct {
        const char *kind, *first, *second;
        bool good;
    } table[] = {{"tcp", "-", "-", false}, {"tcp", "a", "-", false}, {"tcp", "-", "a", false}, {"tcp", "a", "a", true},
                 {"tcp", "p", "p", true},  {"tcp", "p", "a", false}, {"tcp", "ap", "p", true}, {"tcp", "ap", "a", true},
                 {"udp", "-", "-", false}, {"udp", "a", "a", true},  {"udp", "p", "p", true},  {"udp", "a", "p", false}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        CHECK_EQ(ask(one, "%s %s %d", table[i].kind, table[i].first, PORT), PORT, "%s %s", table[i].kind,
                 table[i].first);
        long long port = ask(two, "%s %s %d", table[i].kind, table[i].second, PORT);
        CHECK_EQ(port, table[i].good ? PORT : -EADDRINUSE, "and beside it %s", table[i].second);
        ask(one, "close");
        ask(two, "close");
    }
    CHECK_EQ(ask(one, "tcp a %d", PORT), PORT, "one with SO_REUSEADDR");
    CHECK_EQ(ask(two, "tcp a %d", PORT), PORT, "and another");
    CHECK_EQ(ask(one, "listen"), 0, "the first listens");
    CHECK_EQ(ask(two, "listen"), -EADDRINUSE, "the other may not");
    CHECK_EQ(ask(two, "tcp a %d", PORT), -EADDRINUSE, "nor bind beside a listener");
    ask(one, "close");
    CHECK_EQ(ask(two, "tcp a %d", PORT), PORT, "until it is closed");
    CHECK_EQ(ask(two, "listen"), 0, "and listen");
    ask(two, "close");
}

/* test REF L-01 */
static void connections(int control, struct other *one, struct other *two, int port)
{
    struct other *both[2] = {one, two};
    long long counts[2];
    port = (int)ask(one, "tcp ap %d", port);
    CHECK(port > 0, "one has the port");
    CHECK_EQ(ask(two, "tcp ap %d", port), port, "the other, too");
    CHECK_EQ(ask(one, "listen"), 0, "one listens");
    CHECK_EQ(ask(two, "listen"), 0, "the other listens");
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, port, MANY), MANY, "connections come");
    take_all(both, MANY, counts);
    CHECK_EQ(counts[0] + counts[1], MANY, "each is accepted once");
    CHECK(counts[0] > 0 && counts[1] > 0, "each of the two accepts some");
    long long first = counts[0];
    CHECK_EQ(ask(one, "close"), 0, "one closes its listener");
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, port, MANY), MANY, "connections come");
    both[0] = NULL;
    take_all(both, MANY, counts);
    CHECK_EQ(counts[1], MANY, "the other accepts all");
    CHECK_EQ(ask(one, "write"), first, "one's connections are as they were");
    CHECK_EQ(ask(two, "write"), MANY - first + MANY, "the other's, too");
    CHECK_EQ(ask(two, "close"), 0, "the other closes");
}

/* A port of the range that a program chooses from, asked for by another one. */
static void explicit_ports(int control, struct other *one, struct other *two)
{
    long long counts[2];
    struct other *both[2] = {NULL, two};
    int port = (int)ask(one, "tcp - 0"), near = port;
    CHECK(port > 0, "one binds to port 0");
    CHECK_EQ(ask(two, "tcp - %d", port), -EADDRINUSE, "the port is taken for the other");
    CHECK_EQ(ask(two, "udp - %d", port), port, "but not of UDP");
    for (int i = 1; i < 8 && (near == port || ask(two, "tcp a %d", near) != near); i++)
        near = port ^ i;
    CHECK_EQ(ask(two, "listen"), 0, "the other listens next to it");
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, near, 2), 2, "connections come there");
    take_all(both, 2, counts);
    CHECK_EQ(counts[1], 2, "the other accepts them");
    CHECK_EQ(ask(two, "write"), 2, "and they work");
    ask(one, "close");
    ask(two, "close");
}

static void datagrams(int control, struct other *one, struct other *two)
{
    struct other *both[2] = {one, two};
    long long counts[2];
    for (int share = 0; share < 2; share++) {
        const char *name = share ? "SO_REUSEPORT" : "SO_REUSEADDR";
        CHECK_EQ(ask(one, "udp %s %d", share ? "p" : "a", PORT), PORT, "%s: one", name);
        CHECK_EQ(ask(two, "udp %s %d", share ? "p" : "a", PORT), PORT, "%s: and another", name);
        for (int i = 0; i < MANY; i++)
            if (peer_ask(control, "UDPSEND %s %d 1", T_LOCAL, PORT) <= 0)
                CHECK(false, "a datagram is sent");
        take_all(both, MANY, counts);
        CHECK_EQ(counts[0] + counts[1], MANY, "%s: each datagram comes once", name);
        if (share)
            CHECK(counts[0] > 0 && counts[1] > 0, "%s: some to each", name);
        else
            CHECK_EQ(counts[1], MANY, "%s: to the latest", name);
        ask(one, "close");
        ask(two, "close");
    }
}

/* Whether each of the two has got that many, and no more. */
static bool each_gets(struct other *one, struct other *two, int first, int second)
{
    struct other *both[2] = {one, two};
    long long counts[2];
    take_all(both, first + second, counts);
    return counts[0] == first && counts[1] == second;
}

/* Whether one of the two, whichever, has got one. */
static bool one_gets(struct other *one, struct other *two)
{
    struct other *both[2] = {one, two};
    long long counts[2];
    take_all(both, 1, counts);
    return counts[0] + counts[1] == 1;
}

/* test REF D-03 */
static void groups(int control, struct other *one, struct other *two, const char *options)
{
    CHECK_EQ(ask(one, "udp %s %d", options, PORT), PORT, "groups (%s): one binds", options);
    CHECK_EQ(ask(two, "udp %s %d", options, PORT), PORT, "and another");
    CHECK_EQ(ask(one, "join"), 0, "one joins the group");
    CHECK_EQ(ask(two, "join"), 0, "the other, too");
    for (int i = 0; i < 3; i++)
        CHECK(peer_ask(control, "UDPSEND %s %d 1", GROUP, PORT) > 0, "a datagram of the peer to the group");
    CHECK(each_gets(one, two, 3, 3), "each gets each");
    CHECK_EQ(ask(one, "send %s %d 1", GROUP, PORT), 0, "one sends to the group");
    CHECK(each_gets(one, two, 1, 1), "both get it");
    CHECK_EQ(ask(two, "send %s %d 4000", GROUP, PORT), 0, "the other sends more than a packet holds");
    CHECK(each_gets(one, two, 1, 1), "both get it");
    CHECK_EQ(ask(one, "loop 0"), 0, "one turns IP_MULTICAST_LOOP off");
    CHECK_EQ(ask(one, "send %s %d 1", GROUP, PORT), 0, "and sends");
    CHECK_EQ(ask(one, "loop 1"), 0, "turns it on");
    CHECK_EQ(ask(one, "send %s %d 1", GROUP, PORT), 0, "and sends");
    CHECK(each_gets(one, two, 1, 1), "only the second is heard on this host");
    CHECK_EQ(ask(two, "block"), 0, "the other blocks what comes from this address");
    CHECK_EQ(ask(one, "send %s %d 1", GROUP, PORT), 0, "one sends");
    CHECK(peer_ask(control, "UDPSEND %s %d 1", GROUP, PORT) > 0, "and the peer");
    CHECK(each_gets(one, two, 2, 1), "the other hears the peer only");
    CHECK_EQ(ask(one, "leave"), 0, "one leaves");
    CHECK(peer_ask(control, "UDPSEND %s %d 1", GROUP, PORT) > 0, "a datagram of the peer");
    /* Among ports that are shared by SO_REUSEPORT, Linux spreads what only one has joined for (inet_steal_sock). */
    CHECK(strchr(options, 'p') ? one_gets(one, two) : each_gets(one, two, 0, 1), "is for the other alone");
    CHECK_EQ(ask(two, "send %s %d 1", T_BROADCAST, PORT), 0, "a broadcast of the other");
    CHECK(each_gets(one, two, 1, 1), "comes to both");
    ask(one, "close");
    CHECK_EQ(ask(two, "leave"), 0, "the other leaves");
    CHECK_EQ(ask(two, "join"), 0, "and joins");
    CHECK_EQ(ask(one, "udp %s 0", options) > 0, true, "one is on a port of its own, in no group");
    CHECK_EQ(ask(one, "send %s %d 1", GROUP, PORT), 0, "and sends to the group");
    CHECK(each_gets(one, two, 0, 1), "the other hears it");
    ask(one, "close");
    ask(two, "close");
}

int main(int count, char **arguments)
{
    if (count > 1 && strcmp(arguments[1], "other") == 0)
        return be_the_other();
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    struct other one = start(), two = start();
    binds(&one, &two);
    connections(control, &one, &two, PORT);
    connections(control, &one, &two, 0);
    explicit_ports(control, &one, &two);
    datagrams(control, &one, &two);
    groups(control, &one, &two, "a");
    groups(control, &one, &two, "p");
    CHECK_EQ(ask(&one, "tcp ap %d", PORT + 2), PORT + 2, "one binds");
    CHECK_EQ(ask(&one, "listen"), 0, "and listens");
    CHECK_EQ(ask(&two, "tcp ap %d", PORT + 2), PORT + 2, "the other, too");
    CHECK_EQ(ask(&two, "listen"), 0, "and listens");
    end(&one, SIGKILL);
    CHECK_EQ(peer_ask(control, "MANY %s %d %d", T_LOCAL, PORT + 2, MANY), MANY, "one is killed: connections come");
    struct other *both[2] = {NULL, &two};
    long long counts[2];
    take_all(both, MANY, counts);
    CHECK_EQ(counts[1], MANY, "the other accepts all");
    end(&two, SIGTERM);
    return t_end();
}
