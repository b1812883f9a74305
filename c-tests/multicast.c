/* Groups: errors of joining and leaving, source filters, IP_MULTICAST_LOOP, what reaches which socket. */
#include "t.h"

#define GROUP "239.7.7.7"

static struct in_addr in(const char *ip)
{
    return t_address(ip, 0).sin_addr;
}

static int member(int fd, int name, const char *group, const char *interface)
{
    struct ip_mreq request = {in(group), in(interface)};
    return setsockopt(fd, SOL_IP, name, &request, sizeof request);
}

static int source(int fd, int name, const char *group, const char *from)
{
    struct ip_mreq_source request = {in(group), in(T_LOCAL), in(from)};
    return setsockopt(fd, SOL_IP, name, &request, sizeof request);
}

static bool hears(int fd, int sender, int port)
{
    char data[8];
    struct sockaddr_in to = t_address(GROUP, port);
    struct pollfd entry = {fd, POLLIN, 0};
    if (sendto(sender, "g", 1, 0, (struct sockaddr *)&to, sizeof to) != 1)
        return false;
    if (poll(&entry, 1, 150) <= 0)
        return false;
    return recv(fd, data, sizeof data, 0) == 1;
}

/* test REF D-03 */
int main(void)
{
    t_begin();
    int fd = MUST(t_udp(0)), sender = MUST(t_udp(0));
    MUST(t_bind(fd, "0.0.0.0", 0));
    int port = t_local_port(fd);
    MUST(t_bind(sender, T_LOCAL, 0));
    CHECK_ERRNO(member(fd, IP_ADD_MEMBERSHIP, "10.99.0.5", T_LOCAL), EINVAL, "no group: EINVAL");
    CHECK_ERRNO(member(fd, IP_ADD_MEMBERSHIP, GROUP, T_FOREIGN), ENODEV, "an address that is not ours: ENODEV");
    CHECK_ERRNO(member(fd, IP_DROP_MEMBERSHIP, GROUP, T_LOCAL), EADDRNOTAVAIL, "not joined: EADDRNOTAVAIL");
    CHECK_ERRNO(source(fd, IP_BLOCK_SOURCE, GROUP, T_PEER), EINVAL, "a source of a group not joined: EINVAL");
    CHECK_EQ(member(fd, IP_ADD_MEMBERSHIP, GROUP, T_LOCAL), 0, "join");
    CHECK_ERRNO(member(fd, IP_ADD_MEMBERSHIP, GROUP, T_LOCAL), EADDRINUSE, "twice: EADDRINUSE");
    CHECK(hears(fd, sender, port), "a datagram to the group from this host arrives");
    MUST(t_set_option(sender, SOL_IP, IP_MULTICAST_LOOP, 0));
    CHECK(!hears(fd, sender, port), "not without IP_MULTICAST_LOOP");
    MUST(t_set_option(sender, SOL_IP, IP_MULTICAST_LOOP, 1));
    CHECK_EQ(source(fd, IP_BLOCK_SOURCE, GROUP, T_LOCAL), 0, "block a source");
    CHECK(!hears(fd, sender, port), "it is not heard");
    CHECK_ERRNO(source(fd, IP_BLOCK_SOURCE, GROUP, T_LOCAL), EADDRNOTAVAIL, "blocked already: EADDRNOTAVAIL");
    CHECK_ERRNO(source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, T_PEER), EINVAL, "the other mode: EINVAL");
    CHECK_EQ(source(fd, IP_UNBLOCK_SOURCE, GROUP, T_LOCAL), 0, "unblock it");
    CHECK(hears(fd, sender, port), "it is heard again");
    CHECK_ERRNO(source(fd, IP_UNBLOCK_SOURCE, GROUP, T_LOCAL), EADDRNOTAVAIL, "not blocked: EADDRNOTAVAIL");
    CHECK_EQ(member(fd, IP_DROP_MEMBERSHIP, GROUP, T_LOCAL), 0, "leave");
    CHECK_EQ(source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, T_PEER), 0, "join for one source");
    CHECK(!hears(fd, sender, port), "another source is not heard");
    CHECK_EQ(source(fd, IP_ADD_SOURCE_MEMBERSHIP, GROUP, T_LOCAL), 0, "one source more");
    CHECK(hears(fd, sender, port), "is heard");
    CHECK_EQ(source(fd, IP_DROP_SOURCE_MEMBERSHIP, GROUP, T_LOCAL), 0, "one less");
    CHECK_EQ(source(fd, IP_DROP_SOURCE_MEMBERSHIP, GROUP, T_PEER), 0, "the last one leaves the group");
    CHECK_ERRNO(member(fd, IP_DROP_MEMBERSHIP, GROUP, T_LOCAL), EADDRNOTAVAIL, "which is left then");
    struct group_req request = {.gr_interface = 0};
    struct sockaddr_in group = t_address(GROUP, 0);
    memcpy(&request.gr_group, &group, sizeof group);
    CHECK_ERRNO(setsockopt(fd, SOL_IP, MCAST_JOIN_GROUP, &request, 100), EINVAL, "a short group_req: EINVAL");
    int other = MUST(t_udp(0));
    CHECK(!hears(other, sender, port), "a socket that is not bound to the port hears nothing");
    int stream = MUST(t_tcp(0));
    CHECK_ERRNO(member(stream, IP_ADD_MEMBERSHIP, GROUP, T_LOCAL), EPROTO, "a stream has no groups: EPROTO");
    return t_end();
}
