/* bind(): arguments, conflicts, addresses that are not ours, port 0. */
#include "t.h"

/* test REF C-01 */
/* test REF C-10 */
static void arguments(void)
{
    int pipes[2];
    struct sockaddr_in local = t_address(T_LOCAL, 0);
    struct sockaddr *address = (struct sockaddr *)&local;
    int fd = MUST(t_tcp(0));
    MUST(pipe(pipes));
    CHECK_ERRNO(bind(999, address, sizeof local), EBADF, "no such descriptor");
    CHECK_ERRNO(bind(pipes[0], address, sizeof local), ENOTSOCK, "a pipe");
    CHECK_ERRNO(bind(fd, (void *)1, sizeof local), EFAULT, "unreadable address");
    CHECK_ERRNO(bind(fd, address, 129), EINVAL, "length 129");
    CHECK_ERRNO(bind(fd, address, 15), EINVAL, "one byte short");
    CHECK_ERRNO(bind(fd, address, 0), EINVAL, "length 0");
    local.sin_family = AF_INET6;
    CHECK_ERRNO(bind(fd, address, sizeof local), EAFNOSUPPORT, "IPv6 family");
    local.sin_family = AF_UNSPEC;
    CHECK_ERRNO(bind(fd, address, sizeof local), EAFNOSUPPORT, "AF_UNSPEC with an address");
    local = t_address("0.0.0.0", 0);
    local.sin_family = AF_UNSPEC;
    CHECK_EQ(bind(fd, address, sizeof local), 0, "AF_UNSPEC with the wildcard is taken as AF_INET");
    CHECK(t_local_port(fd) != 0, "and gave a port");
    close(fd);
}

static void port_zero(int type, const char *name)
{
    int fd = MUST(socket(AF_INET, type, 0));
    CHECK_EQ(t_local_port(fd), 0, "%s: no port before bind", name);
    CHECK_EQ(t_bind(fd, T_LOCAL, 0), 0, "%s: bind to port 0", name);
    int port = t_local_port(fd);
    CHECK(port >= 32768 && port <= 60999, "%s: a port of the range", name);
    CHECK(t_is(t_sockname(fd), T_LOCAL), "%s: the address", name);
    CHECK_ERRNO(t_bind(fd, T_LOCAL, 0), EINVAL, "%s: a second bind EINVAL", name);
    CHECK_ERRNO(t_bind(fd, "0.0.0.0", port), EINVAL, "%s: whatever the address", name);
    close(fd);
}

static void addresses(int type, const char *name)
{
    static const struct {
        const char *ip, *name;
        int error;
    } table[] = {{"10.77.77.77", "an address that is nobody's", EADDRNOTAVAIL},
                 {"224.0.0.1", "a group", 0},
                 {"255.255.255.255", "the limited broadcast", 0},
                 {"0.0.0.0", "the wildcard", 0}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        int fd = MUST(socket(AF_INET, type, 0));
        if (table[i].error != 0)
            CHECK_ERRNO(t_bind(fd, table[i].ip, 0), table[i].error, "%s: %s", name, table[i].name);
        else
            CHECK_EQ(t_bind(fd, table[i].ip, 0), 0, "%s: %s is accepted", name, table[i].name);
        close(fd);
    }
    int fd = MUST(socket(AF_INET, type, 0));
    CHECK_ERRNO(t_bind(fd, T_PEER, 0), EADDRNOTAVAIL, "%s: the peer's address", name);
    CHECK_EQ(t_bind(fd, T_BROADCAST, 0), 0, "%s: the subnet's broadcast is accepted", name);
    close(fd);
}

static void conflicts(int type, const char *name)
{
    int first = MUST(socket(AF_INET, type, 0)), second = MUST(socket(AF_INET, type, 0));
    MUST(t_bind(first, T_LOCAL, 0));
    int port = t_local_port(first);
    CHECK_ERRNO(t_bind(second, T_LOCAL, port), EADDRINUSE, "%s: the same address and port", name);
    CHECK_ERRNO(t_bind(second, "0.0.0.0", port), EADDRINUSE, "%s: the wildcard meets the address", name);
    MUST(t_set_option(second, SOL_SOCKET, SO_REUSEADDR, 1));
    CHECK_ERRNO(t_bind(second, T_LOCAL, port), EADDRINUSE, "%s: SO_REUSEADDR on one side only", name);
    MUST(t_set_option(first, SOL_SOCKET, SO_REUSEADDR, 1));
    CHECK_EQ(t_bind(second, T_LOCAL, port), 0, "%s: SO_REUSEADDR on both", name);
    if (type == SOCK_STREAM) {
        CHECK_EQ(listen(first, 1), 0, "%s: the first listens", name);
        CHECK_ERRNO(listen(second, 1), EADDRINUSE, "%s: the second cannot", name);
    }
    close(first);
    close(second);

    first = MUST(socket(AF_INET, type, 0));
    CHECK_EQ(t_bind(first, T_LOCAL, port), 0, "%s: the port is free after close", name);
    int other = MUST(socket(AF_INET, type == SOCK_STREAM ? SOCK_DGRAM : SOCK_STREAM, 0));
    CHECK_EQ(t_bind(other, T_LOCAL, port), 0, "%s: the other protocol has ports of its own", name);
    close(other);
    close(first);

    first = MUST(socket(AF_INET, type, 0));
    second = MUST(socket(AF_INET, type, 0));
    MUST(t_set_option(first, SOL_SOCKET, SO_REUSEPORT, 1));
    MUST(t_bind(first, T_LOCAL, port));
    CHECK_ERRNO(t_bind(second, T_LOCAL, port), EADDRINUSE, "%s: SO_REUSEPORT on one side only", name);
    MUST(t_set_option(second, SOL_SOCKET, SO_REUSEPORT, 1));
    CHECK_EQ(t_bind(second, T_LOCAL, port), 0, "%s: SO_REUSEPORT on both", name);
    if (type == SOCK_STREAM) {
        CHECK_EQ(listen(first, 1), 0, "%s: then one listens", name);
        CHECK_EQ(listen(second, 1), 0, "%s: and the other", name);
    }
    close(first);
    close(second);
}

int main(void)
{
    t_begin();
    arguments();
    port_zero(SOCK_STREAM, "stream");
    port_zero(SOCK_DGRAM, "datagram");
    addresses(SOCK_STREAM, "stream");
    addresses(SOCK_DGRAM, "datagram");
    conflicts(SOCK_STREAM, "stream");
    conflicts(SOCK_DGRAM, "datagram");
    return t_end();
}
