/* connect() with AF_UNSPEC: the way to take a connection off a socket. */
#include "t.h"

/* test REF C-02 */
static void established(void)
{
    char byte = 'a';
    int control, fd = peer_pair(&control);
    int port = t_local_port(fd);
    CHECK_EQ(t_disconnect(fd), 0, "established: 0");
    CHECK_EQ(peer_ask(control, "WAITEND"), ECONNRESET, "established: the peer gets a reset");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "established: the address is gone");
    CHECK(t_local_port(fd) == port || t_local_port(fd) == 0, "established: the port is the old one or none");
    CHECK_EQ(t_tcp_state(fd), TCP_CLOSE, "established: CLOSE");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "established: the socket connects again");
    CHECK_EQ(write(fd, &byte, 1), 1, "established: and writes");
    CHECK_EQ(read(fd, &byte, 1), 1, "established: and reads");
    close(fd);
    close(control);
}

static void fresh(void)
{
    int fd = MUST(t_tcp(0));
    CHECK_EQ(t_disconnect(fd), 0, "fresh: 0");
    CHECK_EQ(t_disconnect(fd), 0, "fresh: 0 again");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "fresh: connects afterwards");
    close(fd);
}

static void connecting(void)
{
    int fd = MUST(t_tcp(SOCK_NONBLOCK));
    CHECK_ERRNO(t_connect(fd, T_BLACKHOLE, 80), EINPROGRESS, "SYN-SENT: EINPROGRESS");
    CHECK_EQ(t_disconnect(fd), 0, "SYN-SENT: 0");
    CHECK_MASK(fd, MASK_OUT | POLLHUP | POLLERR, "SYN-SENT: poll OUT HUP ERR");
    CHECK_EQ(t_so_error(fd), ECONNRESET, "SYN-SENT: SO_ERROR is ECONNRESET");
    CHECK_MASK(fd, MASK_OUT | POLLHUP, "SYN-SENT: then OUT HUP");
    CHECK_ERRNO(t_connect(fd, T_PEER, PORT_ECHO), EINPROGRESS, "SYN-SENT: connects afterwards");
    CHECK_MASK(fd, MASK_OUT, "SYN-SENT: with success");
    close(fd);
}

static void listening(void)
{
    int port = t_free_port(), fd = MUST(t_tcp(0));
    MUST(t_bind(fd, T_LOCAL, port));
    MUST(listen(fd, 4));
    int control = MUST(peer_connect(PORT_COMMAND));
    CHECK_EQ(t_disconnect(fd), 0, "listener: 0");
    CHECK_EQ(t_option(fd, SOL_SOCKET, SO_ACCEPTCONN), 0, "listener: it is none any more");
    CHECK_ERRNO(peer_ask(control, "CONNECT %s %d", T_LOCAL, port), ECONNREFUSED, "listener: the port refuses");
    CHECK(t_is(t_sockname(fd), T_LOCAL), "listener: the bound address stays");
    CHECK_EQ(t_local_port(fd), port, "listener: the bound port stays");
    CHECK_EQ(listen(fd, 4), 0, "listener: listens again");
    CHECK(peer_ask(control, "CONNECT %s %d", T_LOCAL, port) >= 0, "listener: the port answers again");
    int accepted = accept(fd, NULL, NULL);
    CHECK(accepted >= 0, "listener: and accepts");
    close(accepted);
    close(control);
    CHECK_EQ(t_disconnect(fd), 0, "listener: 0 again");
    CHECK_EQ(t_connect(fd, T_PEER, PORT_ECHO), 0, "listener: the socket can connect");
    CHECK_EQ(t_local_port(fd), port, "listener: from the bound port");
    close(fd);
}

static void datagram(void)
{
    char byte = 'u';
    struct sockaddr_in name;
    socklen_t length = sizeof name;
    int fd = MUST(t_udp(0));
    CHECK_EQ(t_connect(fd, T_PEER, PORT_UDP_ECHO), 0, "datagram: connect");
    CHECK_EQ(write(fd, &byte, 1), 1, "datagram: write");
    CHECK_EQ(read(fd, &byte, 1), 1, "datagram: read");
    CHECK_EQ(t_disconnect(fd), 0, "datagram: 0");
    CHECK_ERRNO(getpeername(fd, (struct sockaddr *)&name, &length), ENOTCONN, "datagram: no peer");
    CHECK_ERRNO(write(fd, "a", 1), EDESTADDRREQ, "datagram: write EDESTADDRREQ");
    CHECK(t_is(t_sockname(fd), "0.0.0.0"), "datagram: no address");
    CHECK_EQ(t_disconnect(fd), 0, "datagram: 0 again");
    close(fd);
}

int main(void)
{
    t_begin();
    established();
    fresh();
    connecting();
    listening();
    datagram();
    return t_end();
}
