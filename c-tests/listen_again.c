/* A port that is listened on, given up and listened on again at once, as servers do that listen anew for each client:
 * bulk data comes through every time. */
#include "t.h"

/* More than one segment at a time travels here when the devices aggregate. */
#define BULK 2000000
#define PORT 7211

static int listen_on(int port)
{
    int fd = MUST(t_tcp(0)), one = 1;
    MUST(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one));
    CHECK_EQ(t_bind(fd, T_LOCAL, port), 0, "bind");
    CHECK_EQ(listen(fd, 4), 0, "listen");
    return fd;
}

static void one_round(int control)
{
    static char data[BULK];
    int listener = listen_on(PORT);
    MUST(peer_tell(control, "CONNECT %s %d", T_LOCAL, PORT));
    int fd = accept(listener, NULL, NULL);
    CHECK(fd >= 0, "accept");
    CHECK(strncmp(peer_answer(control), "OK", 2) == 0, "the peer has connected");
    /* The port is given up while its connection lives. */
    close(listener);
    listener = listen_on(PORT);
    long long start = t_now_ms();
    MUST(peer_tell(control, "SEND %d", BULK));
    CHECK_EQ(t_read_all(fd, data, BULK), BULK, "bulk data comes");
    CHECK_EQ(peer_number(control), BULK, "all of it");
    CHECK(t_now_ms() - start < T_PATIENCE_MS, "without waiting for retransmissions");
    close(fd);
    CHECK_EQ(peer_ask(control, "WAITEND"), 0, "close sends a FIN");
    MUST(peer_tell(control, "CLOSE"));
    peer_answer(control);
    close(listener);
}

int main(void)
{
    t_begin();
    int control = MUST(peer_connect(PORT_COMMAND));
    for (int round = 0; round < 3; round++)
        one_round(control);
    return t_end();
}
