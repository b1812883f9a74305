/* connect() to a closed port: each way to learn of the refusal, the masks, and another try on the same socket. */
#include "t.h"

#define MASK_DEAD (MASK_IN | MASK_OUT | POLLRDHUP | POLLHUP)

static void check_retry(int fd, const char *after)
{
    char byte = 'r';
    fcntl(fd, F_SETFL, 0);
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "%s: the same socket connects to an open port", after);
    CHECK_EQ(write(fd, &byte, 1), 1, "%s: and writes", after);
    CHECK_EQ(read(fd, &byte, 1), 1, "%s: and reads", after);
    close(fd);
}

/* test REF C-05 */
/* test REF C-06 */
static void blocking(void)
{
    int fd = MUST(t_tcp(0));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNREFUSED, "blocking: ECONNREFUSED");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "blocking: poll OUT HUP afterwards");
    CHECK_EQ(t_so_error(fd), 0, "blocking: SO_ERROR is 0, connect reported it");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "blocking: the address is unset again");
    CHECK(t_local_port(fd) != 0, "blocking: the port is still shown");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "blocking: write EPIPE");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNREFUSED, "blocking: a second try is refused again");
    check_retry(fd, "blocking");
}

static void non_blocking(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "non-blocking: EINPROGRESS");
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "non-blocking: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNREFUSED, "non-blocking: the next connect tells");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "non-blocking: poll OUT HUP afterwards");
    CHECK_EQ(t_so_error(fd), 0, "non-blocking: SO_ERROR is 0");
    check_retry(fd, "non-blocking");
}

static void so_error_first(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "SO_ERROR first: EINPROGRESS");
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "SO_ERROR first: poll IN OUT RDHUP HUP ERR");
    CHECK_EQ(t_so_error(fd), ECONNREFUSED, "SO_ERROR first: it is ECONNREFUSED");
    CHECK_EQ(t_so_error(fd), 0, "SO_ERROR first: reported once");
    CHECK_MASK(fd, MASK_DEAD, "SO_ERROR first: poll without ERR");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNABORTED, "SO_ERROR first: connect ECONNABORTED, once");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "SO_ERROR first: then poll OUT HUP");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "SO_ERROR first: the next connect starts anew");
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "SO_ERROR first: and is refused anew");
    close(fd);
}

static void read_first(void)
{
    char byte;
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "read first: EINPROGRESS");
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "read first: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(read(fd, &byte, 1), ECONNREFUSED, "read first: ECONNREFUSED");
    CHECK_MASK(fd, MASK_DEAD, "read first: poll without ERR");
    CHECK_EQ(t_so_error(fd), 0, "read first: SO_ERROR is 0");
    CHECK_EQ(read(fd, &byte, 1), 0, "read first: the next read is the end");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "read first: write EPIPE");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), ECONNABORTED, "read first: connect ECONNABORTED, once");
    check_retry(fd, "read first");
}

static void write_first(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), EINPROGRESS, "write first: EINPROGRESS");
    CHECK_MASK(fd, MASK_DEAD | POLLERR, "write first: poll IN OUT RDHUP HUP ERR");
    CHECK_ERRNO(write(fd, "a", 1), ECONNREFUSED, "write first: ECONNREFUSED");
    CHECK_ERRNO(write(fd, "a", 1), EPIPE, "write first: then EPIPE");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), ECONNABORTED, "write first: connect ECONNABORTED, once");
    check_retry(fd, "write first");
}

static void bound(void)
{
    int fd = MUST(t_tcp(0));
    int port = t_free_port();
    MUST(t_bind(fd, "0.0.0.0", port));
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_CLOSED), ECONNREFUSED, "bound: ECONNREFUSED");
    CHECK_EQ(t_local_port(fd), port, "bound: the port stays");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "bound: the address is the wildcard again");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "bound: then connects");
    CHECK_EQ(t_local_port(fd), port, "bound: from the same port");
    close(fd);
}

int main(void)
{
    t_begin();
    blocking();
    non_blocking();
    so_error_first();
    read_first();
    write_first();
    bound();
    return t_end();
}
