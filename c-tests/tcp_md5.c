/* TCP MD5 signatures towards a kernel: TCP_MD5SIG and TCP_MD5SIG_EXT, both directions, wrong keys, resets. */
#include "t.h"

/* linux/tcp.h; glibc has not heard of them and shows the interface as padding. */
#define TCP_MD5SIG_FLAG_IFINDEX 2
#define tcpm_ifindex __tcpm_pad

static struct tcp_md5sig signature(const char *ip, const char *key)
{
    struct tcp_md5sig value = {.tcpm_keylen = (unsigned short)strlen(key)};
    struct sockaddr_in address = t_address(ip, 0);
    memcpy(&value.tcpm_addr, &address, sizeof address);
    memcpy(value.tcpm_key, key, strlen(key));
    return value;
}

static int set(int fd, int name, struct tcp_md5sig *value)
{
    return setsockopt(fd, IPPROTO_TCP, name, value, sizeof *value);
}

static int set_key(int fd, const char *ip, const char *key)
{
    struct tcp_md5sig value = signature(ip, key);
    return set(fd, TCP_MD5SIG, &value);
}

static int set_prefix(int fd, const char *ip, int prefix, const char *key)
{
    struct tcp_md5sig value = signature(ip, key);
    value.tcpm_flags = TCP_MD5SIG_FLAG_PREFIX;
    value.tcpm_prefixlen = (unsigned char)prefix;
    return set(fd, TCP_MD5SIG_EXT, &value);
}

/* test REF T-09 */
static void arguments(void)
{
    int fd = MUST(t_tcp(0));
    struct tcp_md5sig value = signature(T_PEER, "secret");
    socklen_t length = sizeof value;
    CHECK_ERRNO(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &value, sizeof value - 1), EINVAL, "too short: EINVAL");
    CHECK_ERRNO(setsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, NULL, sizeof value), EFAULT, "from nowhere: EFAULT");
    CHECK_ERRNO(set_key(fd, T_PEER, ""), ENOENT, "no such key to delete: ENOENT");
    CHECK_EQ(set(fd, TCP_MD5SIG, &value), 0, "a key");
    CHECK_EQ(set(fd, TCP_MD5SIG, &value), 0, "may be set again");
    CHECK_ERRNO(set_prefix(fd, T_PEER, 24, ""), ENOENT, "another prefix is another key: ENOENT");
    CHECK_EQ(set_prefix(fd, T_PEER, 32, ""), 0, "an address is a prefix of 32");
    CHECK_ERRNO(set_key(fd, T_PEER, ""), ENOENT, "it is deleted once: ENOENT");
    CHECK_ERRNO(set_prefix(fd, T_PEER, 33, "key"), EINVAL, "a prefix of 33: EINVAL");
    value.tcpm_keylen = TCP_MD5SIG_MAXKEYLEN;
    CHECK_EQ(set(fd, TCP_MD5SIG, &value), 0, "a key of 80 bytes");
    value.tcpm_keylen = TCP_MD5SIG_MAXKEYLEN + 1;
    CHECK_ERRNO(set(fd, TCP_MD5SIG, &value), EINVAL, "of 81: EINVAL");
    value = signature(T_PEER, "secret");
    value.tcpm_flags = TCP_MD5SIG_FLAG_IFINDEX;
    value.tcpm_ifindex = 1;
    CHECK_ERRNO(set(fd, TCP_MD5SIG_EXT, &value), EINVAL, "the interface must be an L3 master: EINVAL");
    value.tcpm_ifindex = 0;
    CHECK_EQ(set(fd, TCP_MD5SIG_EXT, &value), 0, "none is the default domain");
    value.tcpm_flags = 0;
    value.tcpm_keylen = 0;
    CHECK_EQ(set(fd, TCP_MD5SIG, &value), 0, "the key of 80 bytes is still there");
    CHECK_ERRNO(set(fd, TCP_MD5SIG, &value), ENOENT, "the one with the flag is another: ENOENT");
    value.tcpm_addr.ss_family = AF_INET6;
    CHECK_ERRNO(set(fd, TCP_MD5SIG, &value), EINVAL, "another family: EINVAL");
    CHECK_ERRNO(getsockopt(fd, IPPROTO_TCP, TCP_MD5SIG, &value, &length), ENOPROTOOPT, "it is not read: ENOPROTOOPT");
    close(fd);
}

/* Some data both ways, many segments of it. */
static void talk(int control, int fd)
{
    static unsigned char data[60000];
    pattern_fill(data, sizeof data, 0);
    CHECK_EQ(t_write_all(fd, data, sizeof data), (long)sizeof data, "60000 bytes go out");
    CHECK_EQ(peer_ask(control, "RECV 60000"), 60000, "and arrive");
    CHECK_EQ(peer_ask(control, "SEND 60000"), 60000, "as many come back");
    CHECK_EQ(t_read_all(fd, data, sizeof data), (long)sizeof data, "and are read");
    CHECK_EQ(pattern_match(data, sizeof data, 0), sizeof data, "unharmed");
}

static int client(int port, const char *key)
{
    int fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 300));
    if (key != NULL)
        CHECK_EQ(set_key(fd, T_PEER, key), 0, "the key %s", key);
    return t_connect(fd, T_PEER, port) == 0 ? fd : (close(fd), -1);
}

static void connecting(int control)
{
    peer_ask(control, "KEY secret");
    int port = peer_ask(control, "LISTEN"), fd = client(port, "secret");
    CHECK(fd >= 0, "connect with the peer's key");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "the peer has it");
    talk(control, fd);
    CHECK_EQ(peer_ask(control, "RESET"), 0, "the peer resets");
    CHECK(t_wait(fd, POLLIN) & POLLERR, "which is believed, for it is signed");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ERROR), ECONNRESET, "ECONNRESET");
    close(fd);

    fd = client(port, "secret");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "once more");
    MUST(t_set_linger(fd, 1, 0));
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "our reset is believed too");

    fd = client(port, "secret");
    CHECK(peer_ask(control, "ACCEPT") >= 0, "and once more");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "our FIN is seen");
    CHECK_EQ(peer_ask(control, "CLOSE"), 0, "the peer closes");

    CHECK(client(port, "other") < 0 && errno == EINPROGRESS, "another key: no answer");
    CHECK(client(port, NULL) < 0 && errno == EINPROGRESS, "no key: no answer");
    peer_ask(control, "KEY");
    port = peer_ask(control, "LISTEN");
    CHECK(client(port, "secret") < 0 && errno == EINPROGRESS, "a key that the peer has not: no answer");
    peer_ask(control, "UNLISTEN");
    CHECK(client(port, "secret") < 0 && errno == EINPROGRESS, "nobody listens: no signed reset, so no answer");
}

static void accepting(int control)
{
    int port, listener = t_listener(0, &port);
    CHECK_EQ(set_prefix(listener, "10.0.0.0", 8, "wrong"), 0, "a key for many");
    CHECK_EQ(set_prefix(listener, T_PEER, 24, "secret"), 0, "one for fewer counts more");
    peer_ask(control, "KEY secret");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "the peer connects");
    int fd = MUST(accept(listener, NULL, NULL));
    CHECK_ERRNO(set_prefix(fd, T_PEER, 24, ""), ENOENT, "the connection has not the prefix");
    talk(control, fd);
    CHECK_EQ(peer_ask(control, "FIN"), 0, "the peer ends its half");
    CHECK_EQ(read(fd, &port, 1), 0, "which is seen");
    CHECK_EQ(set_key(fd, T_PEER, ""), 0, "but a key for the peer's address");
    close(fd);
    close(listener);
}

/* Over loopback the keys are the kernel's to use. */
static void loopback(void)
{
    char data[8];
    int listener = MUST(t_tcp(0)), fd = MUST(t_tcp(0));
    CHECK_EQ(set_prefix(listener, "127.0.0.0", 8, "secret"), 0, "a key before bind");
    MUST(t_bind(listener, "0.0.0.0", 0));
    MUST(listen(listener, 4));
    CHECK_EQ(set_key(fd, "127.0.0.1", "secret"), 0, "the same for who connects");
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 300));
    CHECK_EQ(t_connect(fd, "127.0.0.1", t_local_port(listener)), 0, "connect over loopback");
    int child = MUST(accept(listener, NULL, NULL));
    CHECK_EQ(write(fd, "signed", 6), 6, "six bytes");
    CHECK_EQ(t_read_all(child, data, 6), 6, "arrive");
    close(fd);
    fd = MUST(t_tcp(0));
    MUST(t_set_timeout(fd, SO_SNDTIMEO, 300));
    CHECK_ERRNO(t_connect(fd, "127.0.0.1", t_local_port(listener)), EINPROGRESS, "without a key: no answer");
    close(fd);
    close(child);
    close(listener);
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    arguments();
    connecting(control);
    accepting(control);
    loopback();
    return t_end();
}
