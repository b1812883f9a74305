/* AF_INET6 sockets that carry IPv4: mapped destinations, `::` listeners, IPV6_V6ONLY. */
#include "t.h"

static struct sockaddr_in6 mapped(const char *ip, int port)
{
    char text[64];
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    snprintf(text, sizeof text, "::ffff:%s", ip);
    inet_pton(AF_INET6, text, &address.sin6_addr);
    return address;
}

static bool is_mapped(const struct sockaddr_in6 *address, const char *ip)
{
    struct sockaddr_in6 wanted = mapped(ip, 0);
    return address->sin6_family == AF_INET6 &&
           memcmp(&address->sin6_addr, &wanted.sin6_addr, sizeof wanted.sin6_addr) == 0;
}

/* test REF S-06 */
static void client(void)
{
    char byte = 'm';
    struct sockaddr_in6 peer = mapped(T_PEER, PORT_ECHO), name;
    struct sockaddr_in plain = t_address(T_PEER, PORT_ECHO);
    socklen_t length = sizeof name;
    int fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_DOMAIN), AF_INET6, "SO_DOMAIN is AF_INET6");
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &length), 0, "fresh: getsockname");
    CHECK(length == sizeof name && name.sin6_family == AF_INET6, "fresh: an IPv6 name");
    CHECK_ERRNO(connect(fd, (struct sockaddr *)&peer, 23), EINVAL, "a short address: EINVAL");
    CHECK_ERRNO(connect(fd, (struct sockaddr *)&plain, sizeof plain), EINVAL, "an IPv4 address is too short: EINVAL");
    CHECK_EQ(connect(fd, (struct sockaddr *)&peer, sizeof peer), 0, "connect to ::ffff:PEER");
    CHECK_EQ(write(fd, &byte, 1), 1, "write");
    CHECK_EQ(read(fd, &byte, 1), 1, "read");
    CHECK_EQ(getpeername(fd, (struct sockaddr *)&name, &length), 0, "getpeername");
    CHECK(is_mapped(&name, T_PEER) && ntohs(name.sin6_port) == PORT_ECHO, "comes back mapped");
    length = sizeof name;
    CHECK_EQ(getsockname(fd, (struct sockaddr *)&name, &length), 0, "getsockname");
    CHECK(is_mapped(&name, T_LOCAL), "our address comes back mapped");
    close(fd);

    fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    peer = mapped(T_PEER, PORT_CLOSED);
    CHECK_ERRNO(connect(fd, (struct sockaddr *)&peer, sizeof peer), ECONNREFUSED, "a closed port: ECONNREFUSED");
    close(fd);

    fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    CHECK_EQ(t_option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 0, "IPV6_V6ONLY is off at first");
    MUST(t_set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    CHECK_EQ(t_option(fd, IPPROTO_IPV6, IPV6_V6ONLY), 1, "IPV6_V6ONLY on");
    peer = mapped(T_PEER, PORT_ECHO);
    CHECK_ERRNO(connect(fd, (struct sockaddr *)&peer, sizeof peer), ENETUNREACH, "a mapped address then: ENETUNREACH");
    close(fd);
}

static void server(int control)
{
    struct sockaddr_in6 any = {.sin6_family = AF_INET6}, name;
    socklen_t length = sizeof name;
    int listener = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    CHECK_EQ(bind(listener, (struct sockaddr *)&any, sizeof any), 0, "bind to ::");
    MUST(getsockname(listener, (struct sockaddr *)&name, &length));
    int port = ntohs(name.sin6_port);
    CHECK(port != 0 && IN6_IS_ADDR_UNSPECIFIED(&name.sin6_addr), "getsockname shows :: and a port");
    CHECK_EQ(listen(listener, 4), 0, "listen");
    int plain = MUST(t_tcp(0));
    CHECK_ERRNO(t_bind(plain, T_LOCAL, port), EADDRINUSE, "an IPv4 socket on the same port: EADDRINUSE");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "an IPv4 peer connects");
    length = sizeof name;
    int fd = accept(listener, (struct sockaddr *)&name, &length);
    CHECK(fd >= 0, "accept");
    CHECK(length == sizeof name && is_mapped(&name, T_PEER), "the peer's name comes mapped");
    length = sizeof name;
    MUST(getsockname(fd, (struct sockaddr *)&name, &length));
    CHECK(is_mapped(&name, T_LOCAL) && ntohs(name.sin6_port) == port, "so does ours");
    close(fd);
    close(listener);

    listener = MUST(socket(AF_INET6, SOCK_STREAM, 0));
    MUST(t_set_option(listener, IPPROTO_IPV6, IPV6_V6ONLY, 1));
    MUST(bind(listener, (struct sockaddr *)&any, sizeof any));
    length = sizeof name;
    MUST(getsockname(listener, (struct sockaddr *)&name, &length));
    MUST(listen(listener, 4));
    port = ntohs(name.sin6_port);
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "IPV6_V6ONLY: an IPv4 peer is refused");
    CHECK_EQ(t_bind(plain, T_LOCAL, port), 0, "and an IPv4 socket may have the port");
    close(plain);
    close(listener);
}

static void datagram(void)
{
    char byte;
    struct sockaddr_in6 peer = mapped(T_PEER, PORT_UDP_ECHO), name;
    socklen_t length = sizeof name;
    int fd = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    CHECK_EQ(sendto(fd, "d", 1, 0, (struct sockaddr *)&peer, sizeof peer), 1, "a datagram to ::ffff:PEER");
    CHECK_EQ(recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&name, &length), 1, "its echo");
    CHECK(length == sizeof name && is_mapped(&name, T_PEER), "from a mapped name");
    close(fd);
}

/* ::1 is there for the asking, but not from an IPv4 address. */
static void other_family(void)
{
    struct sockaddr_in6 peer = mapped(T_PEER, PORT_UDP_ECHO), ours = mapped(T_LOCAL, 0);
    struct sockaddr_in6 local = {.sin6_family = AF_INET6, .sin6_port = htons(9), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr *to = (struct sockaddr *)&local;
    int connected = MUST(socket(AF_INET6, SOCK_DGRAM, 0)), bound = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    int probe = MUST(socket(AF_INET6, SOCK_DGRAM, 0));
    /* A machine whose loopback has no IPv6 answers ENETUNREACH. */
    bool there = bind(probe, to, sizeof local) == 0 || errno == EACCES || errno == EADDRINUSE;
    close(probe);
    MUST(connect(connected, (struct sockaddr *)&peer, sizeof peer));
    if (there)
        CHECK_ERRNO(sendto(connected, "d", 1, 0, to, sizeof local), EAFNOSUPPORT, "a mapped peer, to ::1: EAFNOSUPPORT");
    MUST(bind(bound, (struct sockaddr *)&ours, sizeof ours));
    if (there)
        CHECK_ERRNO(sendto(bound, "d", 1, 0, to, sizeof local), EAFNOSUPPORT, "a mapped name, to ::1: EAFNOSUPPORT");
    CHECK_EQ(sendto(bound, "d", 1, 0, (struct sockaddr *)&peer, sizeof peer), 1, "it can still send to ::ffff:PEER");
    close(connected);
    close(bound);
}

int main(void)
{
    t_begin();
    client();
    server(MUST(peer_connect(PORT_COMMAND)));
    datagram();
    other_family();
    return t_end();
}
