/* What a socket, getifaddrs and if_nameindex tell of the interface: the program's own address is there. */
#include "t.h"
#include <ifaddrs.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sys/ioctl.h>

static char t_name[IFNAMSIZ];

static bool is_local(const struct sockaddr *address)
{
    return address && address->sa_family == AF_INET && t_is(*(const struct sockaddr_in *)address, T_LOCAL);
}

/* One question about the interface, asked on the socket. */
static struct ifreq ask(int fd, unsigned long request, const char *name, int *result)
{
    struct ifreq question;
    memset(&question, 0, sizeof question);
    snprintf(question.ifr_name, sizeof question.ifr_name, "%s", name);
    *result = ioctl(fd, request, &question);
    return question;
}

static void list_by_ioctl(int fd)
{
    struct ifreq room[32];
    struct ifconf list = {.ifc_len = sizeof room, .ifc_req = room};
    CHECK_EQ(ioctl(fd, SIOCGIFCONF, &list), 0, "SIOCGIFCONF");
    CHECK_EQ(list.ifc_len % (int)sizeof room[0], 0, "gives whole entries");
    for (int i = 0; i < list.ifc_len / (int)sizeof room[0]; i++)
        if (is_local(&room[i].ifr_addr))
            memcpy(t_name, room[i].ifr_name, IFNAMSIZ);
    CHECK(t_name[0] != 0, "and our address is among them");
    int length = list.ifc_len;
    list.ifc_len = 0;
    list.ifc_req = NULL;
    CHECK_EQ(ioctl(fd, SIOCGIFCONF, &list), 0, "without a buffer");
    CHECK_EQ(list.ifc_len, length, "it says how much there is");
    list.ifc_len = sizeof room[0] - 1;
    list.ifc_req = room;
    CHECK_EQ(ioctl(fd, SIOCGIFCONF, &list), 0, "with less room than an entry");
    CHECK_EQ(list.ifc_len, 0, "nothing");
}

static void questions(int fd)
{
    int result;
    struct ifreq answer = ask(fd, SIOCGIFADDR, t_name, &result);
    CHECK(result == 0 && is_local(&answer.ifr_addr), "SIOCGIFADDR");
    answer = ask(fd, SIOCGIFNETMASK, t_name, &result);
    CHECK(result == 0 && t_is(*(struct sockaddr_in *)&answer.ifr_netmask, "255.255.255.0"), "SIOCGIFNETMASK");
    answer = ask(fd, SIOCGIFBRDADDR, t_name, &result);
    /* The kernel has what the address was set up with, which may be none. */
    uint32_t broadcast = ntohl(((struct sockaddr_in *)&answer.ifr_broadaddr)->sin_addr.s_addr);
    CHECK(result == 0 && (broadcast == 0 || (broadcast & 255) == 255), "SIOCGIFBRDADDR");
    answer = ask(fd, SIOCGIFMTU, t_name, &result);
    CHECK(result == 0 && answer.ifr_mtu == 1500, "SIOCGIFMTU");
    answer = ask(fd, SIOCGIFHWADDR, t_name, &result);
    CHECK(result == 0 && answer.ifr_hwaddr.sa_family == ARPHRD_ETHER, "SIOCGIFHWADDR");
    answer = ask(fd, SIOCGIFFLAGS, t_name, &result);
    int wanted = IFF_UP | IFF_RUNNING | IFF_BROADCAST | IFF_MULTICAST;
    CHECK(result == 0 && (answer.ifr_flags & wanted) == wanted, "SIOCGIFFLAGS");
    answer = ask(fd, SIOCGIFMETRIC, t_name, &result);
    CHECK(result == 0 && answer.ifr_metric == 0, "SIOCGIFMETRIC");
    answer = ask(fd, SIOCGIFTXQLEN, t_name, &result);
    CHECK(result == 0 && answer.ifr_qlen > 0, "SIOCGIFTXQLEN");
    answer = ask(fd, SIOCGIFINDEX, t_name, &result);
    CHECK(result == 0 && answer.ifr_ifindex == (int)if_nametoindex(t_name), "SIOCGIFINDEX");
    char name[IFNAMSIZ];
    CHECK(if_indextoname((unsigned)answer.ifr_ifindex, name) && strcmp(name, t_name) == 0, "if_indextoname");
    struct ifreq by_index = {.ifr_ifindex = answer.ifr_ifindex};
    CHECK(ioctl(fd, SIOCGIFNAME, &by_index) == 0 && strcmp(by_index.ifr_name, t_name) == 0, "SIOCGIFNAME");
    ask(fd, SIOCGIFADDR, "none-such", &result);
    CHECK(result == -1 && errno == ENODEV, "no such interface: ENODEV");
    CHECK_ERRNO(ioctl(fd, SIOCGIFADDR, NULL), EFAULT, "no memory: EFAULT");
}

/* test RFC 1122 §3.3.7 (SHLD-36) */
int main(void)
{
    t_begin();
    int fd = MUST(t_udp(0));
    list_by_ioctl(fd);
    questions(fd);
    int stream = MUST(t_tcp(0));
    questions(stream);

    struct ifaddrs *list = NULL;
    CHECK_EQ(getifaddrs(&list), 0, "getifaddrs");
    int found = 0;
    bool is_whole = false, has_link = false;
    for (struct ifaddrs *one = list; one; one = one->ifa_next) {
        has_link |= strcmp(one->ifa_name, t_name) == 0 && one->ifa_addr && one->ifa_addr->sa_family == AF_PACKET;
        if (!is_local(one->ifa_addr))
            continue;
        found++;
        is_whole = strcmp(one->ifa_name, t_name) == 0 && (one->ifa_flags & IFF_UP) && one->ifa_broadaddr &&
                   t_is(*(struct sockaddr_in *)one->ifa_netmask, "255.255.255.0");
    }
    CHECK_EQ(found, 1, "our address is there once");
    CHECK(is_whole, "with name, flags, mask and broadcast address");
    CHECK(has_link, "and the interface's link address");
    freeifaddrs(list);
    freeifaddrs(NULL);

    struct if_nameindex *names = if_nameindex();
    bool is_named = false;
    for (struct if_nameindex *one = names; one && one->if_index; one++)
        is_named |= strcmp(one->if_name, t_name) == 0;
    CHECK(is_named, "if_nameindex has the interface");
    if_freenameindex(names);
    close(fd);
    return t_end();
}
